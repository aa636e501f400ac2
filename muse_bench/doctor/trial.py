"""The main job in small: what `compare` does, with models that run in seconds. Imports no torch."""

from collections.abc import Callable, Sequence

from muse_bench.config import Case
from muse_bench.doctor.record import Fact
from muse_bench.errors import MuseBenchError
from muse_bench.execution.runner import Progress, Runner
from muse_bench.record import Record
from muse_bench.units import format_bytes

WHAT = "main job"
COMMAND = "muse-bench compare"


def try_main_job(cases: Sequence[Case], timeout_seconds: float, on_progress: Callable[[Progress], None]) -> Fact:
    """Whether each of the cases comes to a peak, measured where there is a GPU."""
    records: list[Record] = []
    try:
        with Runner("auto", timeout_seconds=timeout_seconds, waits=False, on_progress=on_progress) as runner:
            records.extend(runner.run(cases))
    except (MuseBenchError, OSError) as error:
        return broken(str(error))
    for record in records:
        if record.status != "ok":
            return broken(f"{record.model} ended as {record.status}: {record.reason}")
    peaks = ", ".join(f"{record.model} {format_bytes(record.peak_allocated_bytes)}" for record in records)
    return Fact(WHAT, "ok", f"{COMMAND} works, in small: {peaks}, {records[0].provenance}")


def broken(reason: str) -> Fact:
    """That of a machine where it does not work."""
    return Fact(WHAT, "failed", f"{COMMAND} does not work: {reason}", "mend what is above, else report this line")
