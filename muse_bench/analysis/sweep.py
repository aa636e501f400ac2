"""How memory and time grow along one size: values by model, and the exponent of the power law fitted to them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from muse_bench.record import Record

CONFIG_FIELDS = {"layers": "n_layers", "d-model": "d_model", "vocab": "vocab_size"}
PARAMS = ("seq", "batch", *CONFIG_FIELDS)
Figure = Callable[[Record], float | None]


def peak_of(record: Record) -> float | None:
    """The peak that was allocated, in bytes."""
    return record.peak_allocated_bytes if record.status == "ok" else None


def step_of(record: Record) -> float | None:
    """Seconds a step; None where nothing was timed."""
    return record.step_time_seconds if record.status == "ok" else None


def prefill_of(record: Record) -> float | None:
    """Seconds until the first new token; None where nothing was timed."""
    return record.prefill_seconds if record.status == "ok" else None


def new_token_of(record: Record) -> float | None:
    """Seconds a new token after the first; None where nothing was timed."""
    return record.new_token_seconds if record.status == "ok" else None


def state_of(record: Record) -> float | None:
    """What decoding keeps of each sequence, in bytes; None in other modes."""
    return record.state_per_sequence_bytes if record.status == "ok" else None


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """c x^p; `offset` is the logarithm of c, and `exponent` is p."""

    offset: float
    exponent: float

    def at(self, x: float) -> float:
        """The logarithm of the law's value."""
        return self.offset + self.exponent * math.log(x)


def exponent(points: Mapping[int, float]) -> float | None:
    """p of the power law that fits the points best; None for fewer than two."""
    law = power_law(points)
    return None if law is None else law.exponent


def power_law(points: Mapping[int, float]) -> PowerLaw | None:
    """The power law that fits the points best in the logarithms; None for fewer than two."""
    pairs = [(math.log(x), math.log(y)) for x, y in points.items() if x > 0 and y > 0]
    if len(pairs) < 2:
        return None
    mean_x, mean_y = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in pairs)
    slope = float(sum((x - mean_x) * (y - mean_y) for x, y in pairs) / spread)
    return PowerLaw(mean_y - slope * mean_x, slope)


def along(records: Sequence[Record], param: str, figure: Figure) -> dict[str, dict[int, float]]:
    """A figure of each model at each value of the parameter that gave one."""
    found: dict[str, dict[int, float]] = {record.model: {} for record in records}
    for record in records:
        value, at = figure(record), value_of(record, param)
        if value is not None and at is not None:
            found[record.model][at] = value
    return found


def value_of(record: Record, param: str) -> int | None:
    """What the parameter was in this record; None for a size that a user's model keeps to itself."""
    known = getattr(record, param) if param in ("batch", "seq") else record.config.get(CONFIG_FIELDS[param])
    return None if known is None else int(known)
