"""Has cases weighed by a worker process, so that whoever asks imports no torch."""

from collections.abc import Sequence

from muse_bench.config import Case
from muse_bench.errors import MuseBenchError, UsageError
from muse_bench.execution.process import WorkerDied, WorkerProcess
from muse_bench.execution.protocol import Request
from muse_bench.footprint import Footprint


def weigh_cases(cases: Sequence[Case]) -> list[Footprint]:
    """The footprint of each case, in order.

    Raises: UsageError for a case that cannot be built, MuseBenchError when the worker fails.
    """
    worker = WorkerProcess({"CUDA_VISIBLE_DEVICES": ""})
    try:
        return [_weigh(worker, case) for case in cases]
    except WorkerDied as error:
        raise MuseBenchError(f"nothing could be counted: {error}") from error
    finally:
        worker.close()


def _weigh(worker: WorkerProcess, case: Case) -> Footprint:
    result = worker.ask(Request(task="weigh", case=case.to_json()), None, lambda _: None)
    if result["status"] == "usage":
        raise UsageError(str(result["reason"]))
    if result["status"] != "ok":
        raise MuseBenchError(f"'{case.model}' could not be counted: {result['reason']}")
    return Footprint(**result["values"])
