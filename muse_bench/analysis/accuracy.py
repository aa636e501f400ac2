"""Predictions beside measurements of the same cases: the error of each, and what the errors amount to."""

import dataclasses
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from muse_bench.config import ModelConfig
from muse_bench.record import Record

PEAK = "peak_allocated_bytes"
FIGURES = (PEAK, "cold_peak_allocated_bytes", "peak_reserved_bytes", "device_peak_bytes")

_CONFIG_DEFAULTS = {
    field.name: field.default for field in dataclasses.fields(ModelConfig) if field.default is not dataclasses.MISSING
}


@dataclass(frozen=True, slots=True)
class Pair:
    """One case, measured and predicted; the prediction may have failed."""

    measured: Record
    predicted: Record

    def error(self, figure: str) -> float | None:
        """The prediction's relative error: positive when it says more than was measured; None without both."""
        return relative_error(getattr(self.predicted, figure), getattr(self.measured, figure))


@dataclass(frozen=True, slots=True)
class Summary:
    """Errors of one figure over many cases; all but the counts are fractions, by absolute size."""

    cases: int
    median: float
    percentile_95: float
    worst: float
    under_estimates: int
    worst_under_estimate: float


def pair_up(records: Iterable[Record]) -> tuple[Pair, ...]:
    """Every measured case of which there is a prediction for the same GPU, in the order first measured.

    A case that was measured or predicted again counts once, with what came last.
    """
    measured: dict[tuple[object, ...], Record] = {}
    predicted: dict[tuple[object, ...], Record] = {}
    for record in records:
        if record.provenance == "predicted":
            predicted[_pairing(record)] = record
        elif record.status == "ok":
            measured[_pairing(record)] = record
    return tuple(Pair(record, predicted[key]) for key, record in measured.items() if key in predicted)


def relative_error(said: int | None, measured: int | None) -> float | None:
    """How far off a figure is, as a fraction of what was measured."""
    return None if not measured or said is None else said / measured - 1


def summarise(errors: Iterable[float | None]) -> Summary | None:
    """What the errors amount to, those that are known; None without any. Below zero is an under-estimate."""
    known = [error for error in errors if error is not None]
    if not known:
        return None
    sizes = sorted(map(abs, known))
    return Summary(
        cases=len(known),
        median=statistics.median(sizes),
        percentile_95=sizes[max(0, -(-95 * len(sizes) // 100) - 1)],
        worst=sizes[-1],
        under_estimates=sum(error < 0 for error in known),
        worst_under_estimate=max(0.0, -min(known)),
    )


def case_key(record: Record) -> tuple[object, ...]:
    """What makes two records be of one case, whatever the GPU."""
    return (
        record.model,
        config_parts(record.config),
        record.mode,
        record.dtype,
        record.batch,
        record.seq,
        record.input_shape,
        record.optimizer,
        record.autocast,
        record.workspace_setting,
        record.logits,
        record.new_tokens,
        record.micro_batch,
        record.sharding,
        record.ranks,
    )


def config_parts(config: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The config's parts by name; one saved before a part was there has that part's default."""
    whole = {**_CONFIG_DEFAULTS, **config} if "d_model" in config else config
    return tuple(sorted(whole.items()))


def _pairing(record: Record) -> tuple[object, ...]:
    return (*case_key(record), record.gpu)
