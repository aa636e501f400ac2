"""Several runs of one case: which of them stands for all, and what varies between them. Records in, figures out."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from muse_bench.ledger import LEDGER_FIELDS, Repeat
from muse_bench.record import Record

SIZES = (
    "peak_allocated_bytes",
    "cold_peak_allocated_bytes",
    "peak_reserved_bytes",
    "context_bytes",
    "device_peak_bytes",
)
TIME = "step_time_seconds"
LEDGER = "ledger_"  # before the name of a line of the ledger
# What a case asks for, which its record has however the run ended.
ASKED = (
    *("model", "config", "mode", "dtype", "batch", "seq", "provenance", "optimizer", "update", "execution", "autocast"),
    *("workspace_setting", "logits", "new_tokens", "micro_batch", "seed"),
)
TAKEN = tuple(field.name for field in dataclasses.fields(Repeat))


@dataclass(frozen=True, slots=True)
class Spread:
    """The least and the most of a figure, over those `runs` of a case that have it."""

    figure: str
    least: float
    most: float
    runs: int

    @property
    def varies(self) -> bool:
        """Whether the figure is not the same in all of them, to the byte."""
        return self.least != self.most


def merge_repeats(records: Sequence[Record]) -> tuple[Record, ...]:
    """One record a case: that of its run which took most, with what each of its runs gave.

    A run that failed counts as more than any that did not. Cases may lack runs that are still to come.
    """
    cases: dict[str, list[Record]] = {}
    for record in records:
        cases.setdefault(repr([getattr(record, name) for name in ASKED]), []).append(record)
    return tuple(map(_merged, cases.values()))


def spreads(record: Record) -> tuple[Spread, ...]:
    """Of each figure that some run of the case has; nothing of a case that ran once."""
    return tuple(_spreads(record.repeats))


def _merged(records: Sequence[Record]) -> Record:
    if len(records) == 1:
        return records[0]
    durations = [record.duration_seconds for record in records if record.duration_seconds is not None]
    return dataclasses.replace(
        max(records, key=_taken),
        repeats=tuple(Repeat(**{name: getattr(record, name) for name in TAKEN}) for record in records),
        notes=tuple(dict.fromkeys(note for record in records for note in record.notes)),
        duration_seconds=round(sum(durations), 3) if durations else None,
    )


def _taken(record: Record) -> tuple[int, ...]:
    """The larger, the more the run took; the first of those that took the same stands for them."""
    sizes = (record.peak_allocated_bytes, record.device_peak_bytes, record.peak_reserved_bytes)
    return (int(record.status != "ok"), *(size or 0 for size in sizes))


def _spreads(repeats: Sequence[Repeat]) -> Iterator[Spread]:
    for name in (*SIZES, TIME):
        yield from _spread(name, [getattr(one, name) for one in repeats])
    for name in LEDGER_FIELDS:
        yield from _spread(LEDGER + name, [getattr(one.ledger, name, None) for one in repeats])


def _spread(figure: str, values: Sequence[float | None]) -> Iterator[Spread]:
    known = [value for value in values if value is not None]
    if known:
        yield Spread(figure, min(known), max(known), len(known))
