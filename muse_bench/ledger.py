"""Ledgers, and the rows of a record that have one: of modules, moments, ranks and runs. Plain data; no torch.

Every size is an integer of bytes and every missing value is None.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from muse_bench.errors import UsageError
from muse_bench.schema import LARGEST_NUMBER, check_values, known_fields

Status = Literal["ok", "oom", "crashed", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Who holds the allocated bytes at the instant of the peak; the parts add up to the peak."""

    parameters: int = 0
    buffers: int = 0
    gradients: int = 0
    optimizer_state: int = 0
    activations_saved: int = 0
    activations_temporary: int = 0
    inputs: int = 0
    workspace: int = 0
    communication: int = 0
    unattributed: int = 0

    @property
    def total(self) -> int:
        """The sum of the parts: the peak of allocated bytes."""
        return sum(dataclasses.astuple(self))

    @property
    def activations(self) -> int:
        """Saved for backward and temporary together."""
        return self.activations_saved + self.activations_temporary


LEDGER_FIELDS: tuple[str, ...] = tuple(part.name for part in dataclasses.fields(Ledger))
LATER_PARTS = ("communication",)  # which earlier records do not name


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleRow:
    """What one part of the model holds at the peak: its path, and bytes by ledger category.

    `source` is where its class stands, as file.py:line; None where that is not known.
    """

    module: str
    ledger: Ledger
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelinePoint:
    """Allocated bytes by category at one moment of the step that peaks; `phase` says what it was doing."""

    phase: str
    ledger: Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class RankRow:
    """What one process of a sharded case took: its peaks and its ledger, in bytes."""

    rank: int
    peak_allocated_bytes: int
    cold_peak_allocated_bytes: int
    peak_reserved_bytes: int
    device_peak_bytes: int | None = None
    ledger: Ledger | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """What one of several runs of a case gave, by the record's own names."""

    status: Status
    reason: str | None = None
    peak_allocated_bytes: int | None = None
    cold_peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    context_bytes: int | None = None
    device_peak_bytes: int | None = None
    step_time_seconds: float | None = None
    ledger: Ledger | None = None


def parse_ledger(values: dict[str, Any], *, whole: bool = False) -> Ledger:
    """A ledger from parsed JSON; only a whole one must name the parts that are zero."""
    if not isinstance(values, dict):
        raise UsageError("a ledger is not a JSON object")
    if whole and (missing := [one for one in LEDGER_FIELDS if one not in (*values, *LATER_PARTS)]):
        raise UsageError(f"the ledger of a record lacks the part '{missing[0]}'")
    unknown = sorted(set(values) - set(LEDGER_FIELDS))
    if unknown:
        raise UsageError(f"a ledger has an unknown part '{unknown[0]:.60}'")
    parts = {name: values.get(name, 0) for name in LEDGER_FIELDS}
    for name, part in parts.items():
        # What two runs of a case differ by is unattributed, and may be less than nothing.
        least = -LARGEST_NUMBER if name == "unattributed" else 0
        if isinstance(part, bool) or not isinstance(part, int) or not least <= part <= LARGEST_NUMBER:
            raise UsageError(f"'{name}' of a ledger is {part!r:.60}: it must be a whole number of bytes")
    return Ledger(**parts)


def parse_rank(values: dict[str, Any]) -> RankRow:
    """A rank's row from parsed JSON."""
    if not isinstance(values, dict) or "rank" not in values:
        raise UsageError("a rank is not a JSON object with its number")
    return RankRow(**_known(RankRow, values))


def parse_repeat(values: dict[str, Any]) -> Repeat:
    """A run's row from parsed JSON."""
    if not isinstance(values, dict) or "status" not in values:
        raise UsageError("a repeat is not a JSON object with a status")
    return Repeat(**_known(Repeat, values))


def _known(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """The values of a row's fields, its ledger among them. Raises: UsageError for one that its field cannot hold."""
    known = known_fields(kind, values)
    ledger = known.pop("ledger", None)
    check_values(kind, known)
    return {**known, "ledger": None if ledger is None else parse_ledger(ledger, whole=True)}
