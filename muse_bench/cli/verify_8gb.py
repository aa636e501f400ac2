"""`muse-bench verify-8gb`: does it fit?"""

from collections.abc import Sequence

from muse_bench.analysis.host_fit import HostBudget
from muse_bench.analysis.verdict import exit_code, judge
from muse_bench.cli.cases import build_cases, split_models
from muse_bench.cli.options import (
    DEFAULT_MODELS,
    Backend,
    BudgetOptions,
    Models,
    ProofOptions,
    ProtocolOptions,
    RunOptions,
    ScaleOptions,
)
from muse_bench.cli.run import run_cases
from muse_bench.host_memory import available_bytes
from muse_bench.record import Record
from muse_bench.report.fit import Fit


def verify_8gb(
    scale: ScaleOptions,
    protocol: ProtocolOptions,
    budget: BudgetOptions,
    proofs: ProofOptions,
    options: RunOptions,
    models: Models = DEFAULT_MODELS,
    backend: Backend = "auto",
) -> int:
    """Verify that models fit a budget, 8 GiB with 10 % to spare unless told: PASS, FAIL or INCONCLUSIVE.

    The peak of the whole device counts: what the allocator reserves, and the
    CUDA context. A prediction passes only when its upper bound fits, and fails
    only when its lower bound does not. With --prove a run whose allocator may
    take no more than the limit less the context decides, whatever else is known.
    Weights that live in host memory need room there too, and time to cross the
    link: both are said.

    Exits with 0 when all pass, 1 when one fails, 3 when one is
    inconclusive, 4 when one crashed.

    \b
    Examples:
      muse-bench verify-8gb
      muse-bench verify-8gb --models tuned --seq 4096 --budget 12GiB
      muse-bench verify-8gb --models ultra --batch 64 --prove --bisect
      muse-bench verify-8gb --models muse --params 7b --seq 1024 --host-memory 32GiB
    """
    cases = build_cases(split_models(models), scale, protocol, budget)
    here = None if budget.host_memory is not None else available_bytes()
    host = None if here is None else HostBudget(here, asked=False)

    def finish(records: Sequence[Record]) -> tuple[Record, ...]:
        judged = map(judge, records)
        return tuple(judged if host is None else map(host.judge, judged))

    return exit_code(run_cases(cases, backend, options, finish=finish, show=Fit, proofs=proofs).records)
