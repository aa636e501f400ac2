"""`muse-bench predict`: one model in full, for a GPU that need not be here."""

from muse_bench.analysis.sharding import reduced
from muse_bench.analysis.verdict import judge
from muse_bench.cli.cases import build_cases, named_model
from muse_bench.cli.options import (
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


def predict(
    scale: ScaleOptions,
    protocol: ProtocolOptions,
    budget: BudgetOptions,
    repeats: RepeatOptions,
    options: RunOptions,
    sharding: ShardingOptions,
    model: ModelOrSetup = None,
    setup: Setup = None,
    input_shape: InputShape = None,
) -> int:
    """Predict one model on a named GPU, with no GPU here: the same report as measure.

    \b
    Examples:
      muse-bench predict ultra --gpu rtx-3080
      muse-bench predict muse --params 7b --seq 1024 --gpu rtx-4060
      muse-bench predict my_package.models:build --mode inference --batch 8
      muse-bench predict hf:./my-model --seq 1024 --dtype bf16
      muse-bench predict vision.py:build --input-shape 3x224x224 --batch 32 --gpu rtx-4060
      muse-bench predict baseline --fsdp --ranks 8 --gpu h200
      muse-bench predict --setup train.py:set_up --gpu rtx-3080
    """
    if follows():
        return ExitCode.OK
    cases = build_cases([named_model(model, setup)], scale, protocol, budget, input_shape)
    cases = repeat_cases(sharded(cases, sharding), repeats)
    finish = merging(lambda records: tuple(map(judge, reduced(records))), repeats)
    return case_status(asked(run_cases(cases, "predict", options, finish=finish, show=show_first)))
