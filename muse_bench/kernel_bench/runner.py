"""Runs the benchmarks, each kernel in a process of its own, and yields the run so far. Imports no torch: workers do."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from muse_bench.errors import MuseBenchError, UsageError
from muse_bench.execution.process import WorkerDied, WorkerProcess
from muse_bench.execution.protocol import PRELOAD_VARIABLE
from muse_bench.execution.source import source_commit
from muse_bench.kernel_bench.benchmark import Benchmark, Contender, Sizes
from muse_bench.kernel_bench.goals import with_goals
from muse_bench.kernel_bench.record import KernelRow, KernelRun, Rates
from muse_bench.measure.nvml import driver_version
from muse_bench.record import Environment

ALIKE = ("gpu", "torch", "triton", "cuda", "driver")  # of one table
WORKER = "muse_bench.kernel_bench.worker"
NO_GPU = "kernels needs a CUDA GPU, and {}: `muse-bench kernels --from FILE` shows a saved run"
VARIABLES: dict[str, str | None] = {
    PRELOAD_VARIABLE: "muse_kernels,torch._dynamo,torch._inductor",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",  # a pool of processes takes longer to start than these few kernels to compile
}


@dataclass(frozen=True, slots=True)
class Planned:
    """One case of one kernel; `index` is its place in the benchmark's list, of tiny cases where `tiny` is set."""

    kernel: str
    benchmark: Benchmark[Any]
    index: int
    tiny: bool = False

    @property
    def sizes(self) -> Sizes:
        """The case's sizes."""
        sizes: Sizes = (self.benchmark.tiny if self.tiny else self.benchmark.cases)[self.index]
        return sizes

    @property
    def contenders(self) -> tuple[Contender[Any], ...]:
        """Who takes part in the case."""
        return self.benchmark.contenders(self.sizes)


class KernelRunner:
    """A context manager around a run. On entry the environment and the card's own rates are known.

    Raises: UsageError, on entry, when there is no CUDA GPU.
    """

    environment: Environment
    rates: Rates

    def __init__(
        self,
        *,
        timeout_seconds: float | None = None,
        slow: bool = False,
        say: Callable[[str], None] = lambda _: None,
        case_finished: Callable[[], None] = lambda: None,
    ) -> None:
        self._timeout_seconds, self._slow = timeout_seconds, slow
        self._say, self._case_finished = say, case_finished
        self._worker: WorkerProcess | None = None
        self._spare: WorkerProcess | None = None
        self._earlier: dict[tuple[str, str], list[KernelRow]] = {}

    def __enter__(self) -> Self:
        self._say("starting")
        try:
            self._worker = self._start()
            hello = self._worker.hello()
            if hello["cuda_unavailable"] is not None:
                raise UsageError(NO_GPU.format(hello["cuda_unavailable"]))
            result = self._worker.ask({"task": "rates"}, self._timeout_seconds, self._say)
            if result["status"] != "ok":
                raise MuseBenchError(f"the card's own rates could not be measured: {result['reason']}")
        except WorkerDied as error:
            self._close()
            raise MuseBenchError(f"the worker process did not answer: {error}") from error
        except BaseException:
            self._close()
            raise
        self._spare = self._start()  # imports torch while the first one measures
        facts = result["values"]["gpu"]
        self.rates = Rates(**result["values"]["rates"])
        self.environment = Environment(**hello["environment"], **facts, commit=source_commit(), driver=driver_version())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def go_on_with(self, earlier: KernelRun) -> None:
        """Takes the cases that another run finished here, and with them the card's rates as it found them.

        Raises: UsageError that names what is another one here.
        """
        for name in ALIKE:
            before, now = getattr(earlier.environment, name), getattr(self.environment, name)
            if before != now:
                raise UsageError(f"the output holds benchmarks of {name} {before}, and here it is {now}: name another")
        self.rates = earlier.rates
        for row in earlier.rows:
            self._earlier.setdefault((row.kernel, row.case), []).append(row)

    def run(self, plan: Sequence[Planned]) -> Iterator[tuple[KernelRow, ...]]:
        """All rows so far, after each that was added; our own has its goals once its case is complete."""
        done: list[KernelRow] = []
        before = None
        for planned in plan:
            if (found := self._found(planned)) is not None:
                done += found
                self._case_finished()
                yield tuple(done)
                continue
            if before not in (None, planned.kernel):
                self._replace()
            before = planned.kernel
            rows: list[KernelRow] = []
            for contender in planned.contenders:
                rows.append(self._measure(planned, contender))
                yield (*done, *rows)
            done += with_goals(rows, planned.sizes, planned.benchmark.goals)
            self._case_finished()
            yield tuple(done)

    def _found(self, planned: Planned) -> list[KernelRow] | None:
        """The case's rows of a run that is gone on with, if all took part and nothing crashed."""
        rows = {row.contender: row for row in self._earlier.get((planned.kernel, planned.sizes.label), ())}
        again = ("crashed", "skipped") if self._slow else ("crashed",)
        names = [contender.name for contender in planned.contenders]
        if any(name not in rows or rows[name].status in again for name in names):
            return None
        return [rows[name] for name in names]

    def _measure(self, planned: Planned, contender: Contender[Any]) -> KernelRow:
        row = blank_row(planned, contender, self.rates)
        if contender.slow is not None and not self._slow:
            return dataclasses.replace(row, status="skipped", reason=f"{contender.slow}: --slow runs it")
        begun = time.monotonic()
        found = self._ask(planned, contender)
        if found.get("status") == "crashed":
            self._replace()  # an illegal access leaves its process no device
        return dataclasses.replace(row, **found, duration_seconds=round(time.monotonic() - begun, 3))

    def _ask(self, planned: Planned, contender: Contender[Any]) -> dict[str, Any]:
        """The fields of the row that the worker fills, a failure among them."""
        request = {
            "task": "time",
            "kernel": planned.kernel,
            "case": planned.index,
            "tiny": planned.tiny,
            "contender": contender.name,
        }
        what = f"{planned.kernel}, {planned.sizes.label}: {contender.name}"
        worker = self._ready()
        try:
            result = worker.ask(request, self._timeout_seconds, lambda phase: self._say(f"{what}, {phase}"))
        except WorkerDied as error:
            return {"status": "crashed", "reason": str(error)}
        if result["status"] == "ok":
            return result["values"]
        status = "oom" if result["status"] == "oom" else "crashed"
        return {"status": status, "reason": result["reason"]}

    def _ready(self) -> WorkerProcess:
        if self._worker is None:
            self._worker = self._spare or self._start()
            self._spare = self._start()
        return self._worker

    def _replace(self) -> None:
        """Ends the worker; the next request finds a fresh one."""
        if self._worker is not None:
            self._worker.close()
        self._worker = None

    def _start(self) -> WorkerProcess:
        return WorkerProcess(VARIABLES, WORKER)

    def _close(self) -> None:
        self._replace()
        if self._spare is not None:
            self._spare.close()
        self._spare = None


def blank_row(planned: Planned, contender: Contender[Any], rates: Rates) -> KernelRow:
    """The row before it was measured: what was asked for, the work that it is, and the limit that this sets."""
    sizes = planned.sizes
    forward, backward = planned.benchmark.forward(sizes), planned.benchmark.backward(sizes)
    forward_limit = rates.seconds(forward.moved_bytes, forward.operations, sizes.dtype)
    backward_limit = rates.seconds(backward.moved_bytes, backward.operations, sizes.dtype)
    return KernelRow(
        kernel=planned.kernel,
        case=sizes.label,
        sizes=sizes.numbers(),
        dtype=sizes.dtype,
        contender=contender.name,
        forward_moved_bytes=forward.moved_bytes,
        forward_operations=forward.operations,
        backward_moved_bytes=backward.moved_bytes,
        backward_operations=backward.operations,
        forward_limit_seconds=forward_limit,
        forward_backward_limit_seconds=forward_limit + backward_limit,
    )
