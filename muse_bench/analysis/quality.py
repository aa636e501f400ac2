"""What a quality run says: the mean and spread of each model over its seeds, and how far it is from the baseline."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from muse_bench.quality.record import QualityRow

PROTOCOL = ("tokens", "pool_tokens", "batch", "seq")
SIZES = ("vocab_size", "d_model", "n_layers")


@dataclass(frozen=True, slots=True)
class Spread:
    """A mean, and the standard deviation of a sample where there are two values or more."""

    mean: float
    deviation: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One model over its seeds. What needs a run that came to its end is None without one.

    `difference` is the loss less the baseline's, seed by seed; `edge` says that its best rate was the largest or the
    smallest that was tried. `reduction` compares peaks on the same GPU alone.
    """

    model: str
    rows: tuple[QualityRow, ...]
    sweep: tuple[QualityRow, ...] = ()
    loss: Spread | None = None
    bits_per_byte: Spread | None = None
    tokens_per_second: Spread | None = None
    peak_bytes: int | None = None
    difference: Spread | None = None
    reduction: float | None = None
    edge: Literal["largest", "smallest"] | None = None

    @property
    def perplexity(self) -> float | None:
        """Of the mean loss."""
        return None if self.loss is None else math.exp(min(self.loss.mean, 700.0))

    @property
    def ended(self) -> tuple[QualityRow, ...]:
        """The runs that came to their end."""
        return tuple(row for row in self.rows if row.status == "ok")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Models trained under one protocol on one text; `first` is a row that shows the protocol."""

    first: QualityRow
    summaries: tuple[Summary, ...]


def compare_quality(rows: Sequence[QualityRow], baseline: str) -> list[Comparison]:
    """A comparison for each protocol: tokens, batch, sequence and sizes. Sweeps go with the models they were for."""
    groups: dict[tuple[object, ...], dict[tuple[object, ...], list[QualityRow]]] = {}
    for row in rows:
        if row.stage == "final":
            groups.setdefault(_group(row, groups), {}).setdefault(_model(row), []).append(row)
    sweeps: dict[tuple[object, ...], list[QualityRow]] = {}
    for row in rows:
        if row.stage == "sweep":
            sweeps.setdefault((_sizes(row), _model(row)), []).append(row)
    found = []
    for models in groups.values():
        first = next(iter(models.values()))[0]
        summaries = [_summary(one, sweeps.get((_sizes(one[0]), key), ())) for key, one in models.items()]
        against = next((one for one in summaries if one.model == baseline), None)
        found.append(Comparison(first, tuple(_against(one, against) for one in summaries)))
    alone = [row for row in rows if row.stage == "sweep" and not any(_has(one, row) for one in found)]
    if alone:  # interrupted before the first model was through
        found += [Comparison(alone[0], (Summary(model=alone[0].model, rows=(), sweep=tuple(alone)),))]
    return found


def _has(comparison: Comparison, row: QualityRow) -> bool:
    return any(row in summary.sweep for summary in comparison.summaries)


def _group(row: QualityRow, known: Iterable[tuple[object, ...]]) -> tuple[object, ...]:
    """The protocol and the sizes; a model from a user's factory has no sizes, and joins whom its protocol lets it."""
    protocol = tuple(getattr(row, name) for name in PROTOCOL)
    if not row.config:
        return next((group for group in known if group[: len(protocol)] == protocol), protocol)
    return (*protocol, *(row.config.get(name) for name in SIZES))


def _sizes(row: QualityRow) -> tuple[object, ...]:
    return (row.batch, row.seq, row.pool_tokens, *(row.config.get(name) for name in SIZES))


def _model(row: QualityRow) -> tuple[object, ...]:
    return (
        row.model,
        row.dtype,
        row.optimizer,
        row.tf32,
        row.autocast,
        tuple((name, str(value)) for name, value in row.config.items()),
    )


def _summary(rows: Sequence[QualityRow], sweep: Sequence[QualityRow]) -> Summary:
    ended = [row for row in rows if row.status == "ok"]
    peaks = [row.peak_allocated_bytes for row in ended if row.peak_allocated_bytes is not None]
    return Summary(
        model=rows[0].model,
        rows=tuple(rows),
        sweep=tuple(sweep),
        loss=spread(row.validation_loss for row in ended),
        bits_per_byte=spread(row.bits_per_byte for row in ended),
        tokens_per_second=spread(row.tokens_per_second for row in ended),
        peak_bytes=max(peaks) if peaks else None,
        edge=_edge(rows[0].lr, sweep),
    )


def _against(summary: Summary, baseline: Summary | None) -> Summary:
    if baseline is None or baseline is summary:
        return summary
    theirs = {row.seed: row.validation_loss for row in baseline.ended}
    pairs = [(row.validation_loss, theirs.get(row.seed)) for row in summary.ended]
    difference = spread(None if a is None or b is None else a - b for a, b in pairs)
    cards = {row.gpu for row in (*summary.ended, *baseline.ended)}
    reduction = None
    if len(cards) == 1 and summary.peak_bytes is not None and baseline.peak_bytes:
        reduction = 1 - summary.peak_bytes / baseline.peak_bytes
    return replace(summary, difference=difference, reduction=reduction)


def _edge(lr: float, sweep: Sequence[QualityRow]) -> Literal["largest", "smallest"] | None:
    """A best rate at the end of the range says that a better one may lie beyond."""
    rates = {row.lr for row in sweep}
    if len(rates) < 2:
        return None
    return "largest" if lr == max(rates) else "smallest" if lr == min(rates) else None


def spread(values: Iterable[float | None]) -> Spread | None:
    """The mean and spread of those that are there."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)
