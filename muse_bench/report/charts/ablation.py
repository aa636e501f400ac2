"""The picture of an ablation."""

from collections.abc import Iterator, Sequence

from muse_bench.analysis.ablation import Fall
from muse_bench.analysis.ablation import waterfall as falls_of
from muse_bench.record import RunFile
from muse_bench.report import words
from muse_bench.report.charts.picture import Picture
from muse_bench.report.charts.waterfall import Fallen, waterfall
from muse_bench.units import format_mib


def pictures(run: RunFile) -> list[Picture]:
    """The waterfall, from the first peak to the last."""
    falls = falls_of(run.records)
    steps = list(_steps(falls))
    if not steps:
        return []
    return [
        Picture(
            name="waterfall",
            title="What each technique saves",
            says=f"Peak allocated MiB. {'; '.join(f'{s.label}: {s.says}' for s in steps)}.",
            draw=lambda palette: waterfall(steps, palette),
        )
    ]


def _steps(falls: Sequence[Fall]) -> Iterator[Fallen]:
    """A bar for the first peak, one for each technique, and one for the last peak; none where there is no peak."""
    last, final = None, falls[0]
    for fall in falls:
        peak, label = fall.record.peak_allocated_bytes, words.plain(fall.label)
        if peak is None:
            if last is not None:
                yield Fallen(label, last, last, fall.record.status)
        elif last is None:
            yield Fallen(label, 0, peak, f"{format_mib(peak)} MiB", is_total=True)
        else:
            yield Fallen(label, last, peak, _saving(last - peak, fall.share))
        if peak is not None:
            last, final = peak, fall
    if last is not None and len(falls) > 1:
        reduction = words.percent_text(final.reduction)
        yield Fallen(
            words.plain(final.record.model), 0, last, f"{format_mib(last)} MiB, {reduction} less", is_total=True
        )


def _saving(saved: int, share: float | None) -> str:
    word = "saves" if saved >= 0 else "costs"
    return f"{word} {format_mib(abs(saved))} ({words.percent_text(None if share is None else abs(share))})"
