"""Proof by running: a case again in a fresh process whose allocator may take no more than the limit less the context.

What an attempt showed is judged here, apart from how it is run; a run that proves nothing leaves a note that says why.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from muse_bench.config import Case
from muse_bench.predict.capacity import STEP_BYTES, smallest_that_runs
from muse_bench.record import Proof, Record
from muse_bench.units import MIB, format_bytes

ATTEMPTS = 4  # a context that turns out other than thought asks for another run, under another cap


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run under a cap, in bytes, as the worker saw it; `device_peak_bytes` is what sampling saw of the process.

    The fields are those of `measure.capped.CappedRun`.
    """

    ran: bool
    steps: int
    cap_bytes: int
    context_bytes: int
    peak_reserved_bytes: int
    outside_bytes: int
    alloc_retries: int
    stopped_by_cap: bool
    device_peak_bytes: int | None = None

    @property
    def used_bytes(self) -> int:
        """What the process took at the most; with no sample, with the memory of others if there are any."""
        sampled = self.device_peak_bytes
        return self.peak_reserved_bytes + self.outside_bytes if sampled is None else sampled


class Unproven(Exception):  # noqa: N818 - says what happened
    """An attempt that neither ran nor was stopped by the cap; the message is one line."""


Try = Callable[[Case, int | None], Attempt]  # a case, and the context to leave room for; Raises: Unproven


def prove(record: Record, case: Case, attempt: Try) -> Record:
    """The record with its proof, or with a note on why there is none."""
    try:
        made = _within_limit(case, record.context_bytes, attempt)
    except Unproven as error:
        return _noted(record, f"no proof: {error}")
    proof = Proof(
        cap_bytes=made.cap_bytes,
        ran=made.ran,
        steps=made.steps,
        context_bytes=made.context_bytes,
        alloc_retries=made.alloc_retries,
    )
    return dataclasses.replace(record, proof=proof)


def find_smallest_budget(record: Record, case: Case, attempt: Try) -> Record:
    """The record with the least memory, to 16 MiB, in which the case still ran: the cap that it needs and the context.

    Each size is tried in a process of its own. The allocated peak is too little, and the reserved one known to do.
    """
    allocated, reserved = _allocated(record), record.peak_reserved_bytes
    if record.status != "ok" or allocated is None or reserved is None:
        return _noted(record, "no smallest budget: the case did not run without a cap")
    if record.context_bytes is None:
        return _noted(record, "no smallest budget: the context is unknown")
    context = record.context_bytes

    def runs(cap: int) -> bool:
        return _decided(attempt(_with_limit(case, cap + context), context)).ran

    try:
        smallest = smallest_that_runs(runs, low=allocated, high=reserved)
    except Unproven as error:
        return _noted(record, f"no smallest budget: {error}")
    note = f"smallest budget: to {STEP_BYTES // MIB} MiB, with {format_bytes(context)} of context and no headroom"
    return _noted(dataclasses.replace(record, smallest_budget_bytes=smallest + context), note)


def _within_limit(case: Case, context: int | None, attempt: Try) -> Attempt:
    """An attempt that stayed within the limit, context and all, or one that ended though the context left it no less.

    The context that a run ends with, not the one that it was told, decides whether its cap was the right one.
    """
    ended: Attempt | None = None
    for _ in range(ATTEMPTS):
        made = _decided(attempt(case, context))
        context = made.used_bytes - made.peak_reserved_bytes
        if made.ran and made.used_bytes <= case.limit_bytes:
            return made
        if not made.ran:
            ended = made
        if ended is not None and case.limit_bytes - context <= ended.cap_bytes:
            return ended
    raise Unproven(f"the context kept changing, to {format_bytes(context)} in the last of {ATTEMPTS} runs")


def _decided(made: Attempt) -> Attempt:
    if not made.ran and not made.stopped_by_cap:
        raise Unproven(
            "the GPU itself had less to give than the cap allows: other processes hold memory, or it is smaller"
        )
    return made


def _with_limit(case: Case, limit_bytes: int) -> Case:
    return dataclasses.replace(case, budget_bytes=limit_bytes, headroom=0.0)


def _allocated(record: Record) -> int | None:
    peaks = (record.peak_allocated_bytes, record.cold_peak_allocated_bytes)
    return None if None in peaks else max(peak for peak in peaks if peak is not None)


def _noted(record: Record, note: str) -> Record:
    return dataclasses.replace(record, notes=(*record.notes, note))
