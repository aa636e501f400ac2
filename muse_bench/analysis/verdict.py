"""The verdict: does the whole device's peak stay within the budget less its headroom?

A run under a cap of just that size proves it, whatever else is known. A measured peak is compared as it is. A
prediction decides only where the limit lies outside the interval of what the device may really use.
"""

import dataclasses

from muse_bench.analysis.interval import Interval, device_interval
from muse_bench.errors import ExitCode
from muse_bench.record import Proof, Record, Verdict
from muse_bench.units import format_bytes

NOTE = "verdict:"
OTHER_PROCESSES = "other processes"


def judge(record: Record) -> Record:
    """The record with its verdict, the reason as a note, and a prediction's bounds; as it is without a budget."""
    if record.limit_bytes is None:
        return record
    interval = device_interval(record)
    verdict, reason = _decide(record, interval, record.limit_bytes)
    notes = tuple(note for note in record.notes if not note.startswith(NOTE))
    return dataclasses.replace(
        record,
        device_lower_bytes=None if interval is None else interval.lower_bytes,
        device_upper_bytes=None if interval is None else interval.upper_bytes,
        verdict=verdict,
        notes=(*notes, f"{NOTE} {verdict}: {reason}"),
    )


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


def _decide(record: Record, interval: Interval | None, limit: int) -> tuple[Verdict, str]:
    if record.proof is not None:
        return _decide_proven(record.proof, limit)
    if record.status == "oom":
        if _crowded(record):
            return "INCONCLUSIVE", "it ran out of memory, but other processes held some of the device's"
        return "FAIL", "it ran out of memory"
    if record.status != "ok":
        return "INCONCLUSIVE", f"the case {record.status}" if record.status == "crashed" else "the case was skipped"
    if interval is not None:
        return _decide_predicted(interval, limit)
    return _decide_measured(record, record.device_peak_bytes, record.peak_reserved_bytes or 0, limit)


def _decide_proven(proof: Proof, limit: int) -> tuple[Verdict, str]:
    cap = f"under a hard cap of {format_bytes(proof.cap_bytes)}, the limit of {format_bytes(limit)} less the context"
    retries = f"; the cache had to be returned {proof.alloc_retries} times" if proof.alloc_retries else ""
    if proof.ran:
        return "PASS", f"proven: {proof.steps} steps ran {cap}{retries}"
    return "FAIL", f"proven: it ran out of memory after {proof.steps} steps {cap}{retries}"


def _decide_predicted(interval: Interval, limit: int) -> tuple[Verdict, str]:
    lower, upper = format_bytes(interval.lower_bytes), format_bytes(interval.upper_bytes)
    bounds = f"({interval.source})"
    if interval.upper_bytes <= limit:
        return "PASS", f"at most {upper} of the limit of {format_bytes(limit)} {bounds}"
    if interval.lower_bytes > limit:
        return "FAIL", f"at least {lower} against the limit of {format_bytes(limit)} {bounds}"
    return "INCONCLUSIVE", f"{lower} to {upper}, on both sides of the limit of {format_bytes(limit)} {bounds}"


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
