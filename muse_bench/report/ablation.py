"""An ablation as a table: a row for each technique, in the order in which they were added."""

from collections.abc import Sequence

from muse_bench.analysis.ablation import Fall, total_saved, waterfall
from muse_bench.quality.record import QualityRun
from muse_bench.record import RunFile
from muse_bench.report import words
from muse_bench.report.losses import LossColumn
from muse_bench.report.sheet import Sheet
from muse_bench.units import format_mib

HEADINGS = ("technique", "peak", "saves", "share", "reduction", "params")
EXPLANATION = (
    "peak: MiB, the most allocated at once after warm-up. saves: MiB less than the row before that has a peak, below "
    "zero where a technique costs memory. share: of the first peak, so that shares add up to the reduction. What a "
    "technique saves depends on those before it."
)


def sheets(run: RunFile, quality: Sequence[QualityRun] = ()) -> list[Sheet]:
    """The waterfall, with times where there are any, and with losses where there are runs of quality."""
    falls, losses = waterfall(run.records), LossColumn(quality, run.records)
    timed = any(record.step_time_seconds is not None for record in run.records)
    ends = (words.plain(fall.record.model) for fall in (falls[0], falls[-1]))
    return [
        Sheet(
            title=f"From {' to '.join(ends)}, one technique at a time",
            headings=(*HEADINGS, *(("step",) if timed else ()), *losses.heading),
            rows=[*(_cells(fall, timed, losses) for fall in falls), _together(falls, timed, losses)],
            notes=(
                f"{words.protocol(run)}; {words.origin(run)}; {words.software(run)}.",
                EXPLANATION,
                *(words.plain(f"{fall.label}: {fall.changes}") for fall in falls if fall.changes),
                *losses.notes((words.plain(fall.label), fall.record) for fall in falls),
                *words.failures(run.records),
            ),
        )
    ]


def _cells(fall: Fall, timed: bool, losses: LossColumn) -> tuple[str, ...]:
    record = fall.record
    return (
        words.plain(fall.label),
        format_mib(record.peak_allocated_bytes) if record.status == "ok" else record.status,
        format_mib(fall.saved_bytes) if fall.changes else "",
        words.percent_text(fall.share) if fall.changes else "",
        words.percent_text(fall.reduction),
        words.count_text(record.parameters),
        *((words.duration_text(record.step_time_seconds),) if timed else ()),
        *losses.cell(record),
    )


def _together(falls: Sequence[Fall], timed: bool, losses: LossColumn) -> tuple[str, ...]:
    shares = [fall.share for fall in falls if fall.share is not None]
    share = words.percent_text(sum(shares) if shares else None)
    blank = ("",) * (timed + len(losses.heading))
    return ("together", "", format_mib(total_saved(falls)), share, "", "", *blank)
