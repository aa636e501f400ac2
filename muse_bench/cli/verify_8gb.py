"""`muse-bench verify-8gb`: does it fit?"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import typer

from muse_bench.analysis.host_fit import HostBudget
from muse_bench.analysis.verdict import exit_code, judge
from muse_bench.cli.cases import build_cases, split_models
from muse_bench.cli.options import (
    DEFAULT_MODELS,
    MODEL,
    Backend,
    BudgetOptions,
    ProofOptions,
    ProtocolOptions,
    RunOptions,
    ScaleOptions,
)
from muse_bench.cli.run import run_cases
from muse_bench.config import TRAINING_MODES, Mode
from muse_bench.host_memory import available_bytes
from muse_bench.models.variants import find_model
from muse_bench.record import Record
from muse_bench.report.fit import Fit

SCALED_MODEL = "streamed"  # whose size does not depend on the card's
SCALED_MODES: tuple[Mode, ...] = ("inference", "decode", "train")


def verify_8gb(
    scale: ScaleOptions,
    protocol: ProtocolOptions,
    budget: BudgetOptions,
    proofs: ProofOptions,
    options: RunOptions,
    models: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="The models: presets, variants or factories.",
            show_default=f"{DEFAULT_MODELS}; with --params {SCALED_MODEL}",
            rich_help_panel=MODEL,
        ),
    ] = None,
    backend: Backend = "auto",
) -> int:
    """Verify that models fit a budget, 8 GiB with 10 % to spare unless told: PASS, FAIL or INCONCLUSIVE.

    The peak of the whole device counts: what the allocator reserves, and the
    CUDA context. A prediction passes only when its upper bound fits, and fails
    only when its lower bound does not. With --prove a run whose allocator may
    take no more than the limit less the context decides, whatever else is known.
    Weights that live in host memory need room there too, and time to cross the
    link: both are said.

    --params runs, or predicts, inference, decoding and training, as far as the
    model can, unless --mode names one. Where it runs a model with weights in host memory, these are filled
    once with random values, all modes share them, and the cap of --prove is set
    from the start.

    Exits with 0 when all pass, 1 when one fails, 3 when one is
    inconclusive, 4 when one crashed.

    \b
    Examples:
      muse-bench verify-8gb
      muse-bench verify-8gb --models tuned --seq 4096 --budget 12GiB
      muse-bench verify-8gb --models ultra --batch 64 --prove --bisect
      muse-bench verify-8gb --params 100b --seq 1024 --host-memory 128GiB
    """
    scaled = scale.params is not None
    names = split_models(models or (SCALED_MODEL if scaled else DEFAULT_MODELS))
    cases = [
        case
        for name in names
        for each in (_each_mode(name, protocol) if scaled else [protocol])
        for case in build_cases([name], scale, each, budget)
    ]
    here = None if budget.host_memory is not None else available_bytes()
    host = None if here is None else HostBudget(here, asked=False)

    def finish(records: Sequence[Record]) -> tuple[Record, ...]:
        judged = map(judge, records)
        return tuple(judged if host is None else map(host.judge, judged))

    run = run_cases(cases, backend, options, finish=finish, show=Fit, proofs=proofs, caps=scaled)
    return exit_code(run.records)


def _each_mode(name: str, protocol: ProtocolOptions) -> list[ProtocolOptions]:
    """The mode that was asked for, or all in which the model is used; training, which changes it, comes last."""
    if protocol.mode is not None or ":" in name:
        return [protocol]
    modes = SCALED_MODES if find_model(name).trains else [mode for mode in SCALED_MODES if mode not in TRAINING_MODES]
    return [dataclasses.replace(protocol, mode=mode) for mode in modes]
