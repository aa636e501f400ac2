"""Predictions beside measurements of the same cases: the error of each, and what the errors amount to."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from muse_bench.record import Record

FIGURES = ("peak_allocated_bytes", "cold_peak_allocated_bytes", "peak_reserved_bytes", "device_peak_bytes")


@dataclass(frozen=True, slots=True)
class Pair:
    """One case, measured and predicted."""

    measured: Record
    predicted: Record

    def error(self, figure: str) -> float | None:
        """The prediction's relative error: positive when it says more than was measured; None without both."""
        measured, predicted = getattr(self.measured, figure), getattr(self.predicted, figure)
        return None if not measured or predicted is None else predicted / measured - 1


@dataclass(frozen=True, slots=True)
class Summary:
    """Errors of one figure over many cases; all but the counts are fractions, by absolute size."""

    figure: str
    cases: int
    median: float
    percentile_95: float
    worst: float
    under_estimates: int
    worst_under_estimate: float


def pair_up(records: Iterable[Record]) -> tuple[Pair, ...]:
    """Every measured case of which there is a prediction for the same GPU, in the order measured."""
    records = [record for record in records if record.status == "ok"]
    predicted = {_key(record): record for record in records if record.provenance == "predicted"}
    return tuple(
        Pair(record, predicted[_key(record)])
        for record in records
        if record.provenance == "measured" and _key(record) in predicted
    )


def summarise(pairs: Sequence[Pair], figure: str) -> Summary | None:
    """The errors of one figure; None when no pair has it. A prediction below the measurement is an under-estimate."""
    errors = [error for pair in pairs if (error := pair.error(figure)) is not None]
    if not errors:
        return None
    sizes = sorted(map(abs, errors))
    return Summary(
        figure=figure,
        cases=len(errors),
        median=statistics.median(sizes),
        percentile_95=sizes[max(0, -(-95 * len(sizes) // 100) - 1)],
        worst=sizes[-1],
        under_estimates=sum(error < 0 for error in errors),
        worst_under_estimate=max(0.0, -min(errors)),
    )


def _key(record: Record) -> tuple[object, ...]:
    return (
        record.model,
        tuple(sorted(record.config.items())),
        record.mode,
        record.dtype,
        record.batch,
        record.seq,
        record.optimizer,
        record.workspace_setting,
        record.logits,
        record.new_tokens,
        record.micro_batch,
        record.gpu,
    )
