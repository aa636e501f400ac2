"""`muse-bench compare`: several models side by side."""

from collections.abc import Sequence

from muse_bench.analysis.comparison import add_reductions, choose_baseline
from muse_bench.analysis.verdict import judge
from muse_bench.cli.cases import build_cases, split_models
from muse_bench.cli.options import (
    DEFAULT_MODELS,
    Backend,
    Baseline,
    BudgetOptions,
    Models,
    ProtocolOptions,
    RepeatOptions,
    RunOptions,
    ScaleOptions,
)
from muse_bench.cli.repeats import merging, repeat_cases
from muse_bench.cli.run import case_status, run_cases
from muse_bench.record import Record
from muse_bench.report.table import Comparison


def compare(
    scale: ScaleOptions,
    protocol: ProtocolOptions,
    budget: BudgetOptions,
    repeats: RepeatOptions,
    options: RunOptions,
    models: Models = DEFAULT_MODELS,
    baseline: Baseline = None,
    backend: Backend = "auto",
) -> int:
    """Compare models: peak memory, what holds it, reduction against the baseline, speed, verdict for a budget.

    Measures where there is a GPU, and predicts where there is none.
    Exits with 4 when a case ran out of memory or crashed; the others are shown.

    \b
    Examples:
      muse-bench compare --vocab 50000 --d-model 1024
      muse-bench compare --models tuned,ultra --gpu rtx-3080 --output peaks.md
      muse-bench compare --params 1.3b --models tuned,muse
      muse-bench compare --mode inference --logits last --batch 4
      muse-bench compare --mode inference --models muse,muse+weights=accelerate
    """
    names = split_models(models)
    against = choose_baseline(names, baseline)
    cases = repeat_cases(build_cases(names, scale, protocol, budget), repeats)

    def finish(records: Sequence[Record]) -> tuple[Record, ...]:
        return tuple(judge(record) for record in add_reductions(records, against))

    return case_status(run_cases(cases, backend, options, finish=merging(finish, repeats), show=Comparison))
