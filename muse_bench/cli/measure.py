"""`muse-bench measure`: one model in full."""

from pathlib import Path
from typing import Annotated

import typer

from muse_bench.analysis.sharding import reduced
from muse_bench.analysis.verdict import judge
from muse_bench.cli.cases import build_cases, named_model
from muse_bench.cli.options import (
    OUTPUT,
    Backend,
    BudgetOptions,
    InputShape,
    ModelOrSetup,
    ProtocolOptions,
    RepeatOptions,
    RunOptions,
    ScaleOptions,
    Setup,
    ShardingOptions,
)
from muse_bench.cli.repeats import merging, repeat_cases
from muse_bench.cli.run import case_status, run_cases
from muse_bench.cli.sharding import asked, follows, sharded, show_first
from muse_bench.errors import ExitCode


def measure(
    scale: ScaleOptions,
    protocol: ProtocolOptions,
    budget: BudgetOptions,
    repeats: RepeatOptions,
    options: RunOptions,
    sharding: ShardingOptions,
    model: ModelOrSetup = None,
    setup: Setup = None,
    input_shape: InputShape = None,
    snapshot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write PyTorch's own snapshot of one more run, for its visualiser. Needs a CUDA GPU.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    backend: Backend = "auto",
) -> int:
    """Measure one model: the full ledger of its peak, its modules, and the step that peaks.

    Predicts, and says so, where there is no GPU.

    \b
    Examples:
      muse-bench measure ultra --batch 4
      muse-bench measure my_model.py:build --vocab 32000 --dtype bf16 --output ultra.json
      muse-bench measure hf:gpt2 --seq 1024
      muse-bench measure vision.py:build --input-shape 3x224x224 --batch 32
      muse-bench measure ultra --repeat 5
      muse-bench measure baseline --fsdp --ranks 2
      muse-bench measure --setup train.py:set_up
      muse-bench measure muse --output muse.html --snapshot muse.pickle
    """
    if follows():
        return ExitCode.OK
    cases = build_cases([named_model(model, setup)], scale, protocol, budget, input_shape)
    cases = repeat_cases(sharded(cases, sharding), repeats)
    run = run_cases(
        cases,
        backend,
        options,
        finish=merging(lambda records: tuple(map(judge, reduced(records))), repeats),
        show=show_first,
        snapshot=snapshot,
    )
    return case_status(asked(run))
