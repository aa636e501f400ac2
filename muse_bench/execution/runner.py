"""Runs cases, each apart from the others, and yields a record a case. Imports no torch: workers do.

Measured cases get a process each for the headline numbers and another for the instrumented run that explains them;
the next process is started while the current one works. Predicted cases share one worker until it fails, or a case
comes again.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from muse_bench.config import WORKSPACE_ENVIRONMENT, WORKSPACE_VARIABLES, Backend, Case, Workspace
from muse_bench.errors import MuseBenchError, UsageError
from muse_bench.execution.at_hand import choose_gpu
from muse_bench.execution.blank import blank_record
from muse_bench.execution.fill import (
    closed,
    explained,
    failure,
    noted,
    predicted,
    what_would_do,
    with_cap,
    with_device,
    with_link,
    with_tries,
)
from muse_bench.execution.gpu_lock import taken_gpu
from muse_bench.execution.pool import Pool
from muse_bench.execution.process import WorkerDied
from muse_bench.execution.proof import Attempt, Unproven, find_smallest_budget, prove
from muse_bench.execution.protocol import PRELOAD_VARIABLE, TIMING, Request, Result, Task
from muse_bench.execution.ranks import check_gpus, measure_ranks, with_ranks
from muse_bench.execution.source import source_commit
from muse_bench.measure.nvml import NvmlSampler, driver_version
from muse_bench.predict.gpus import find_gpu
from muse_bench.record import Environment, Record
from muse_bench.units import format_bytes

DEFAULT_GPU = "rtx-4060"


@dataclass(frozen=True, slots=True)
class Progress:
    """What is running now: case `index` of `total` (from 0), and what it is doing."""

    index: int
    total: int
    case: Case
    phase: str
    device: str | None = None  # of several


class Runner:
    """Runs cases on this machine's GPU or predicts them for a named one; a context manager.

    On entry `backend` and `environment` are settled: 'auto' measures when the worker's torch sees a GPU.
    Without `explain` a measurement has its headline numbers alone, and a prediction no modules and no timeline.
    `proves` adds a run under a cap to each measurement; `bisects` adds the smallest budget that does, by running or by
    simulating. `caps` measures under such a cap at once, where weights in host memory take long to fill: cases in a
    row that share such a model share a process, and have no ledger. A run of its own writes PyTorch's own snapshot to
    the file `snapshot`. A case that crashed runs again, up to `retries` times. Processes that wait for their case
    import `preload`, and what optimizers import at their first step.
    Measuring holds the GPU, `device` by its uuid or the first that CUDA sees, against other runs; `waits` has it wait
    for one that has it. `on_notice` is told of that, and of other processes on the GPU.
    Raises: UsageError when 'cuda' is asked for and nothing can be measured here, another run has the GPU, or its name
    is unknown.
    """

    backend: Literal["cuda", "predict"]
    environment: Environment

    def __init__(
        self,
        backend: Backend = "auto",
        *,
        workspace: Workspace = "default",
        gpu: str | None = None,
        explain: bool = True,
        proves: bool = False,
        bisects: bool = False,
        caps: bool = False,
        preload: Sequence[str] = (),
        snapshot: Path | None = None,
        timeout_seconds: float | None = None,
        retries: int = 0,
        device: str | None = None,
        waits: bool = True,
        on_notice: Callable[[str], None] = lambda _: None,
        on_progress: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self._asked = backend
        self._gpu_name = gpu
        self._explains = explain
        self._proves = proves
        self._bisects = bisects
        self._caps = caps
        self._snapshot = snapshot
        self._timeout_seconds = timeout_seconds
        self._retries = retries
        self._device = device
        self._waits = waits
        self._on_notice = on_notice
        self._held = contextlib.ExitStack()  # the GPU, while it is measured on
        self._on_progress = on_progress
        setting = WORKSPACE_ENVIRONMENT[workspace]
        variables: dict[str, str | None] = {name: setting.get(name) for name in WORKSPACE_VARIABLES}
        if backend == "predict" or (backend == "auto" and gpu is not None):
            variables["CUDA_VISIBLE_DEVICES"] = ""  # predicts the same everywhere, with no context on a GPU
        else:
            variables[PRELOAD_VARIABLE] = ",".join(("torch._dynamo", *preload))
        if device is not None:
            variables["CUDA_VISIBLE_DEVICES"] = device
        self._pool = Pool(variables)

    def __enter__(self) -> Self:
        named = None if self._gpu_name is None else choose_gpu(self._gpu_name)
        try:
            hello = self._pool.first().hello()
        except WorkerDied as error:
            self._pool.close()
            raise MuseBenchError(f"the worker process did not start: {error}") from error
        unavailable, self._gpus = hello["cuda_unavailable"], hello.get("gpus", 0)
        if self._asked == "cuda" and unavailable:
            self._pool.close()
            raise UsageError(f"nothing can be measured here: {unavailable}; use --backend predict")
        measures = self._asked == "cuda" or (self._asked == "auto" and unavailable is None and named is None)
        self.backend = "cuda" if measures else "predict"
        self.environment = Environment(**hello["environment"], commit=source_commit())
        if measures:
            self.environment = dataclasses.replace(self.environment, driver=driver_version())
            try:
                here = self._held.enter_context(taken_gpu(self._device, waits=self._waits, say=self._on_notice))
            except BaseException:
                self._pool.close()
                raise
            self.environment = dataclasses.replace(self.environment, gpu=here.title if here else None)
        else:
            self._gpu = named or find_gpu(DEFAULT_GPU)
            self.environment = dataclasses.replace(
                self.environment,
                gpu=self._gpu.title,
                gpu_total_bytes=self._gpu.total_bytes,
                compute_capability=".".join(map(str, self._gpu.compute_capability)),
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.close()
        self._held.close()

    def start(self) -> None:
        """Starts the first process, which entering waits for."""
        self._pool.first()

    def stop(self) -> None:
        """Ends, from another thread, what runs now, and has nothing run after it."""
        self._pool.stop()

    def run(self, cases: Sequence[Case]) -> Iterator[Record]:
        """One record a case, in order, each as soon as it is there; a case that fails is a record that says so.

        Raises: UsageError for what the user has to mend, such as a factory that raises.
        """
        for index, case in enumerate(cases):

            def say(phase: str, index: int = index, case: Case = case) -> None:
                self._on_progress(Progress(index, len(cases), case, phase, self._device))

            begun = time.monotonic()
            record = self._run_until_it_ends(case, cases[index + 1] if index + 1 < len(cases) else None, say)
            yield dataclasses.replace(record, duration_seconds=round(time.monotonic() - begun, 3))

    def _run_until_it_ends(self, case: Case, following: Case | None, say: Callable[[str], None]) -> Record:
        """The case's record, of the first try that did not crash, or else of the last."""
        reasons: list[str] = []
        while True:
            say("starting")
            record = self._run_once(case, following, say)
            if record.status != "crashed" or len(reasons) == self._retries or self._pool.stopped:
                return with_tries(record, reasons)
            reasons.append(record.reason or "crashed")

    def _run_once(self, case: Case, following: Case | None, say: Callable[[str], None]) -> Record:
        if self.backend == "predict":
            return self._predict(case, say)
        if case.sharding is not None:
            return self._measure_sharded(case, say)
        if self._caps and _is_streamed(case):
            return self._measure_capped(case, say, keeps=following is not None and following.shares_model(case))
        return self._with_proofs(self._measure(case, say), case, say)

    def _predict(self, case: Case, say: Callable[[str], None]) -> Record:
        case = dataclasses.replace(case, gpu=self._gpu.name)
        record = blank_record(case, "predicted", self._gpu.title)
        if case.repeat:
            self._pool.close()  # the worker that ran the case before
        worker = self._pool.first()
        try:
            request = Request(task="predict", case=case.to_json(), smallest=self._bisects)
            result = worker.ask(request, self._timeout_seconds, say)
        except WorkerDied as error:
            self._pool.close()
            return dataclasses.replace(record, status="crashed", reason=str(error))
        except BaseException:
            self._pool.close()
            raise
        if (failed := failure(record, result)) is not None:
            return failed
        filled = predicted(record, case, result["values"], self._gpu)
        if case.sharding is not None:
            filled = with_ranks(filled, result["values"]["of_ranks"])
        return filled if self._explains else dataclasses.replace(filled, modules=(), timeline=())

    def _measure(self, case: Case, say: Callable[[str], None]) -> Record:
        record = self._measure_headline(Request(task="peaks", case=case.to_json()), case, say)
        if record.status != "ok":
            return record
        record = self._explain(record, case, say) if self._explains else record
        return record if self._snapshot is None else self._with_snapshot(record, case, self._snapshot, say)

    def _with_snapshot(self, record: Record, case: Case, file: Path, say: Callable[[str], None]) -> Record:
        """Writes PyTorch's snapshot of another run; its stacks would disturb the instrumented one."""
        try:
            request = Request(task="snapshot", case=case.to_json(), snapshot=str(file.resolve()))
            result = self._send(request, lambda phase: say(f"snapshot: {phase}"), None)
        except WorkerDied as error:
            return noted(record, f"no snapshot: {error}")
        return record if result["status"] == "ok" else noted(record, f"no snapshot: {result['reason']}")

    def _measure_sharded(self, case: Case, say: Callable[[str], None]) -> Record:
        """On the GPU that is held, and on the next ones, which are held as long as the case runs."""
        check_gpus(case, self._gpus)
        with contextlib.ExitStack() as others:
            for rank in range(1, case.ranks):
                others.enter_context(taken_gpu(None, index=rank, waits=self._waits, say=self._on_notice))
            record, facts = measure_ranks(case, self._pool.variables, self._timeout_seconds, say, self.environment.gpu)
        self.environment = dataclasses.replace(self.environment, **facts)
        return record

    def _measure_capped(self, case: Case, say: Callable[[str], None], *, keeps: bool) -> Record:
        """The run is its own proof, in a process that the next case may share."""
        request = Request(task="peaks", case=case.to_json(), capped=True, keeps=keeps)
        record = self._measure_headline(request, case, say)
        if self._bisects:
            record = noted(record, "no smallest budget: each try would fill host memory anew; predict it")
        return record if record.status != "oom" else self._with_what_would_do(record, case, say)

    def _with_what_would_do(self, record: Record, case: Case, say: Callable[[str], None]) -> Record:
        """Of a case that the cap left too little, how much it is predicted to need, if that can be said."""
        with contextlib.suppress(UsageError, WorkerDied):
            here = dataclasses.replace(case, gpu=choose_gpu("auto").name)
            result = self._ask_fresh("predict", here, lambda phase: say(f"what would do: {phase}"), None)
            if result["status"] == "ok":
                return noted(record, what_would_do(result["values"], case))
        return record

    def _measure_headline(self, request: Request, case: Case, say: Callable[[str], None]) -> Record:
        record = blank_record(case, "measured", self.environment.gpu)
        with NvmlSampler(device_uuid=self._device) as sampler:

            def follow(phase: str) -> None:
                if phase == TIMING:
                    sampler.stop()  # the steps that follow are not the protocol's
                    self._pool.pause()
                say(phase)

            try:
                result = self._send(request, follow, sampler)
            except WorkerDied as error:
                return dataclasses.replace(record, status="crashed", reason=str(error))
            finally:
                self._pool.resume()
            view = sampler.stop()
        if (failed := failure(record, result)) is not None:
            return failed
        values = result["values"]
        self.environment = dataclasses.replace(self.environment, **values["gpu"])
        record = dataclasses.replace(record, gpu=self.environment.gpu, **values["peaks"])
        return with_cap(with_link(with_device(record, view), values["link"]), values["capped"], case)

    def _explain(self, record: Record, case: Case, say: Callable[[str], None]) -> Record:
        """Adds the ledger of a separate, instrumented run; what the two runs differ by is unattributed."""
        try:
            result = self._send(_request("ledger", case), lambda phase: say(f"instrumented run: {phase}"), None)
        except WorkerDied as error:
            return noted(record, f"no ledger: {error}")
        if result["status"] != "ok":
            return noted(record, f"no ledger: the instrumented run ended with {result['reason']}")
        return closed(explained(record, result["values"]))

    def _with_proofs(self, record: Record, case: Case, say: Callable[[str], None]) -> Record:
        def attempt(limited: Case, context_bytes: int | None) -> Attempt:
            size = format_bytes(limited.limit_bytes)
            return self._attempt(limited, context_bytes, lambda phase: say(f"within {size}: {phase}"))

        if self._proves and record.status in ("ok", "oom"):
            record = prove(record, case, attempt)
        return find_smallest_budget(record, case, attempt) if self._bisects else record

    def _attempt(self, case: Case, context_bytes: int | None, say: Callable[[str], None]) -> Attempt:
        """Runs the case under a cap. Raises: Unproven when its process did not get to an end."""
        request = Request(task="prove", case=case.to_json(), context_bytes=context_bytes)
        with NvmlSampler(device_uuid=self._device) as sampler:
            try:
                result = self._send(request, say, sampler)
            except WorkerDied as error:
                raise Unproven(str(error)) from error
            view = sampler.stop()
        if result["status"] != "ok":
            raise Unproven(str(result["reason"]))
        return Attempt(**result["values"], device_peak_bytes=view.process_peak_bytes)

    def _ask_fresh(self, task: Task, case: Case, say: Callable[[str], None], sampler: NvmlSampler | None) -> Result:
        return self._send(_request(task, case), say, sampler)

    def _send(self, request: Request, say: Callable[[str], None], sampler: NvmlSampler | None) -> Result:
        watched = {} if sampler is None else {"watch": sampler.watch}
        return self._pool.send(request, self._timeout_seconds, say, **watched)


def _request(task: Task, case: Case) -> Request:
    return Request(task=task, case=case.to_json())


def _is_streamed(case: Case) -> bool:
    return case.config is not None and case.config.weights != "device"
