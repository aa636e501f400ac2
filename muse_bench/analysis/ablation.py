"""An ablation as a waterfall: what each technique takes off the peak, so that the savings add up to the whole."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from muse_bench.analysis.comparison import refusal
from muse_bench.errors import UsageError
from muse_bench.models.ablation import techniques
from muse_bench.models.variants import changed_name, difference, find_model
from muse_bench.record import Record


@dataclass(frozen=True, slots=True)
class Fall:
    """One technique: the model that has it, what sets it, and what it saves against the last model that ran.

    `saved_bytes` is None for the first model and for one without a peak; `share` is that of the first model's peak.
    """

    label: str
    changes: str
    record: Record
    saved_bytes: int | None = None
    share: float | None = None
    reduction: float | None = None


def waterfall(records: Sequence[Record]) -> list[Fall]:
    """The records in their order, each against the one before.

    Raises: UsageError for records of several protocols, which nothing may be subtracted between.
    """
    first = records[0]
    start, last = first.peak_allocated_bytes, first.peak_allocated_bytes
    falls = [Fall(first.model, "", first, reduction=0.0 if start else None)]
    for before, record in itertools.pairwise(records):
        label, changes = _step(before.model, record.model)
        peak = record.peak_allocated_bytes
        if peak is None or not start or last is None:
            falls.append(Fall(label, changes, record))
            continue
        if reason := refusal(record, first):
            raise UsageError(f"'{record.model}' and '{first.model}' are no ablation: {reason}")
        saved, last = last - peak, peak
        falls.append(Fall(label, changes, record, saved, saved / start, 1 - peak / start))
    return falls


def total_saved(falls: Sequence[Fall]) -> int | None:
    """What all techniques save together, in bytes; None where nothing could be subtracted."""
    known = [fall.saved_bytes for fall in falls if fall.saved_bytes is not None]
    return sum(known) if known else None


def _step(before: str, after: str) -> tuple[str, str]:
    """The techniques between two models, and the fields that they set."""
    fields = difference(find_model(before), find_model(after))
    return ", ".join(techniques(before, after)) or "no change", changed_name("", fields).lstrip("+").replace("+", ", ")
