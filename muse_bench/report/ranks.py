"""Ranks as a table: a row for each rank of each part, beside the baseline and the base as they are."""

from collections.abc import Sequence

from muse_bench.analysis.ranks import Rank, ranks
from muse_bench.quality.record import QualityRun
from muse_bench.record import RunFile
from muse_bench.report import words
from muse_bench.report.losses import LossColumn
from muse_bench.report.sheet import Sheet
from muse_bench.units import format_mib

HEADINGS = ("part", "rank", "peak", "reduction", "params")


def sheets(run: RunFile, quality: Sequence[QualityRun] = ()) -> list[Sheet]:
    """The ranks, with times where there are any, and with losses where there are runs of quality."""
    rows, losses = ranks(run.records), LossColumn(quality, run.records)
    timed = any(record.step_time_seconds is not None for record in run.records)
    baseline, base = (words.plain(run.records[:2][end].model) for end in (0, -1))
    return [
        Sheet(
            title=f"Ranks of {base}",
            headings=(*HEADINGS, *(("step",) if timed else ()), *losses.heading),
            rows=[_cells(row, timed, losses) for row in rows],
            notes=(
                f"{words.protocol(run)}; {words.origin(run)}; {words.software(run)}.",
                f"peak: MiB, the most allocated at once after warm-up. reduction: against {baseline}. embedding, "
                "mixer, ffn: the rank of this part, the others as in the base; all: the rank of all three.",
                *losses.notes((_label(row), row.record) for row in rows),
                *words.failures(run.records),
            ),
        )
    ]


def _cells(row: Rank, timed: bool, losses: LossColumn) -> tuple[str, ...]:
    record = row.record
    return (
        row.part or words.plain(record.model),
        "" if row.rank is None else str(row.rank),
        format_mib(record.peak_allocated_bytes) if record.status == "ok" else record.status,
        words.percent_text(record.reduction),
        words.count_text(record.parameters),
        *((words.duration_text(record.step_time_seconds),) if timed else ()),
        *losses.cell(record),
    )


def _label(row: Rank) -> str:
    return words.plain(row.record.model) if row.part is None else f"{row.part} {row.rank}"
