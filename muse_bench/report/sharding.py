"""What each rank of a sharded case took, as text for tables in any format."""

from muse_bench.ledger import RankRow
from muse_bench.record import Record
from muse_bench.report import words
from muse_bench.units import format_mib

PEAKS = ("peak", "cold", "reserved", "device")
PARTS = ("params", "grads", "state", "activations", "comm.")
HEADINGS = ("rank", *PEAKS, *PARTS)


def rank_rows(record: Record) -> list[tuple[str, ...]]:
    """A row a rank under the HEADINGS, sizes in MiB: its peaks, and the parts of its ledger, if it has one."""
    return [(str(row.rank), *map(format_mib, (*_peaks(row), *_parts(row)))) for row in record.of_ranks]


def rank_title(record: Record) -> str:
    """What the table is about, for where it stands among others."""
    return words.plain(f"Ranks of {record.model}, {words.sharding_text(record)}, MiB")


def rank_lines(record: Record) -> list[str]:
    """How far the largest peak is above the mean of the ranks shown, and what sharding takes off one GPU's."""
    peaks = [row.peak_allocated_bytes for row in record.of_ranks]
    over = max(peaks) * len(peaks) / sum(peaks) - 1
    lines = [f"imbalance: the largest peak is {words.percent_text(over)} above the mean of these ranks"]
    if record.reduction is not None:
        against = words.plain(record.reduction_against or "-")
        side = "less" if record.reduction >= 0 else "more"  # replicas have buckets besides
        lines.append(f"{words.percent_text(abs(record.reduction))} {side} than the same on {against}")
    return lines


def _peaks(row: RankRow) -> tuple[int | None, ...]:
    return row.peak_allocated_bytes, row.cold_peak_allocated_bytes, row.peak_reserved_bytes, row.device_peak_bytes


def _parts(row: RankRow) -> tuple[int | None, ...]:
    held = row.ledger
    if held is None:
        return (None,) * 5
    return held.parameters, held.gradients, held.optimizer_state, held.activations, held.communication
