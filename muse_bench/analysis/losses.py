"""What models learned, to be shown beside their memory: losses of one protocol, found by model and dtype."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from muse_bench.analysis.quality import Comparison, Spread, compare_quality
from muse_bench.models.variants import learns_as
from muse_bench.quality.record import QualityRow, QualityRun, merged
from muse_bench.record import Record

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Losses:
    """Validation losses, in nats a token, of models trained under one protocol, which `first` shows."""

    first: QualityRow
    by_model: Mapping[Key, Spread]

    def of(self, record: Record) -> Spread | None:
        """The loss of what learns as the record's model does, in its dtype; None where none was trained to its end."""
        return self.by_model.get(_key(record))


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
    for summary in comparison.summaries:
        if summary.loss is not None:
            by_model.setdefault(_key(summary.rows[0]), summary.loss)
    return Losses(comparison.first, by_model)


def _key(one: Record | QualityRow) -> Key:
    return learns_as(one.model), one.dtype
