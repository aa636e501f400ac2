"""The verdict: does the whole device's peak stay within the budget less its headroom?

A measured peak is compared as it is. A predicted one has an error, so a limit within that error decides nothing.
"""

import dataclasses

from muse_bench.errors import ExitCode
from muse_bench.record import Record, Verdict
from muse_bench.units import format_bytes

# The bound that README claims for a predicted device peak, as a fraction of it; `tests` hold predictions to it.
PREDICTION_ERROR = 0.05
NOTE = "verdict:"
OTHER_PROCESSES = "other processes"


def judge(record: Record) -> Record:
    """The record with its verdict and a note with the reason; as it is when it has no budget."""
    if record.limit_bytes is None:
        return record
    verdict, reason = _decide(record, record.limit_bytes)
    notes = tuple(note for note in record.notes if not note.startswith(NOTE))
    return dataclasses.replace(record, verdict=verdict, notes=(*notes, f"{NOTE} {verdict}: {reason}"))


def reason_of(record: Record) -> str | None:
    """The reason that `judge` noted."""
    prefix = f"{NOTE} {record.verdict}: "
    return next((note.removeprefix(prefix) for note in record.notes if note.startswith(prefix)), None)


def margin_bytes(record: Record) -> int | None:
    """What is left below the limit; negative when the peak is over it; None when either is unknown."""
    if record.limit_bytes is None or record.device_peak_bytes is None:
        return None
    return record.limit_bytes - record.device_peak_bytes


def exit_code(records: tuple[Record, ...]) -> ExitCode:
    """The worst verdict's code: a FAIL, then a case that crashed, then an INCONCLUSIVE one."""
    if any(record.verdict == "FAIL" for record in records):
        return ExitCode.FAIL
    if any(record.status == "crashed" for record in records):
        return ExitCode.CASE_FAILED
    return ExitCode.OK if all(record.verdict == "PASS" for record in records) else ExitCode.INCONCLUSIVE


def _decide(record: Record, limit: int) -> tuple[Verdict, str]:
    if record.status == "oom":
        if _crowded(record):
            return "INCONCLUSIVE", "it ran out of memory, but other processes held some of the device's"
        return "FAIL", "it ran out of memory"
    if record.status != "ok":
        return "INCONCLUSIVE", f"the case {record.status}" if record.status == "crashed" else "the case was skipped"
    if record.provenance == "predicted" and record.device_peak_bytes is not None:
        return _decide_predicted(record.device_peak_bytes, limit)
    return _decide_measured(record, record.device_peak_bytes, record.peak_reserved_bytes or 0, limit)


def _decide_predicted(peak: int, limit: int) -> tuple[Verdict, str]:
    if int(peak * (1 + PREDICTION_ERROR)) <= limit:
        return "PASS", f"{_against(peak, limit)}, more than the prediction's {PREDICTION_ERROR:.0%} error"
    if int(peak * (1 - PREDICTION_ERROR)) > limit:
        return "FAIL", f"{_against(peak, limit)}, more than the prediction's {PREDICTION_ERROR:.0%} error"
    return "INCONCLUSIVE", f"{_against(peak, limit)}, within the prediction's {PREDICTION_ERROR:.0%} error"


def _decide_measured(record: Record, peak: int | None, reserved: int, limit: int) -> tuple[Verdict, str]:
    """What the allocator reserved is exact and a part of the device's peak: over the limit alone, it decides."""
    if reserved > limit:
        return "FAIL", _against(max(peak or 0, reserved), limit)
    if peak is None:
        return "INCONCLUSIVE", "the peak of the whole device is unknown"
    if peak > limit:
        if _crowded(record):
            return "INCONCLUSIVE", f"{_against(peak, limit)}, but other processes were on the device"
        return "FAIL", _against(peak, limit)
    if peak < reserved:
        return "INCONCLUSIVE", f"sampling saw {format_bytes(peak)} of the {format_bytes(reserved)} reserved"
    return "PASS", _against(peak, limit)


def _crowded(record: Record) -> bool:
    return any(OTHER_PROCESSES in note for note in record.notes if not note.startswith(NOTE))


def _against(peak: int, limit: int) -> str:
    margin = limit - peak
    side = "below" if margin >= 0 else "above"
    return f"{format_bytes(peak)} is {format_bytes(abs(margin))} {side} the limit of {format_bytes(limit)}"
