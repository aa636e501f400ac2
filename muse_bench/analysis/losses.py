"""What models learned, to be shown beside their memory: losses of one protocol, found by model and dtype."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from muse_bench.analysis.quality import Comparison, Spread, compare_quality
from muse_bench.models.variants import learns_as
from muse_bench.quality.record import QualityRow, QualityRun, merged
from muse_bench.record import Record

Key = tuple[str, str]
Rates = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Losses:
    """Validation losses, in nats a token, of models trained under one protocol, which `first` shows.

    `rates` are the learning rates that were tried of each model: of unlike ones, losses are not of equal effort.
    """

    first: QualityRow
    by_model: Mapping[Key, Spread]
    rates: Mapping[Key, Rates]

    def of(self, record: Record) -> Spread | None:
        """The loss of what learns as the record's model does, in its dtype; None where none was trained to its end."""
        return self.by_model.get(_key(record))

    def tried(self, records: Iterable[Record]) -> dict[Rates, list[Record]]:
        """The records whose models have a loss, by the rates that were tried of these."""
        found: dict[Rates, list[Record]] = {}
        for record in records:
            if self.of(record) is not None:
                found.setdefault(self.rates[_key(record)], []).append(record)
        return found


def find_losses(runs: Sequence[QualityRun], records: Iterable[Record]) -> Losses | None:
    """The losses of the protocol that knows the most of the records' models; of two, that of more tokens.

    None where there is none of them.
    """
    wanted = set(map(_key, records))
    found = [_losses(one) for run in merged(runs) for one in compare_quality(run.rows, baseline="")]
    best = max(found, key=lambda one: (len(wanted & set(one.by_model)), one.first.tokens), default=None)
    return best if best is not None and wanted & set(best.by_model) else None


def _losses(comparison: Comparison) -> Losses:
    by_model: dict[Key, Spread] = {}
    rates: dict[Key, Rates] = {}
    for summary in comparison.summaries:
        key = _key(summary.rows[0])
        if summary.loss is not None and key not in by_model:
            by_model[key] = summary.loss
            rates[key] = tuple(sorted({row.lr for row in (*summary.sweep, *summary.rows)}))
    return Losses(comparison.first, by_model, rates)


def _key(one: Record | QualityRow) -> Key:
    return learns_as(one.model), one.dtype
