"""The pictures of trainings."""

import dataclasses
import statistics
from collections.abc import Sequence

from muse_bench.analysis.quality import Comparison, Summary, compare_quality
from muse_bench.quality.record import QualityRun
from muse_bench.report import words
from muse_bench.report.charts.curves import Curve
from muse_bench.report.charts.losses import Learned, beside_memory, falling
from muse_bench.report.charts.picture import Picture
from muse_bench.report.charts.records import numbered
from muse_bench.report.quality import CURVES, learned_text, protocol_text
from muse_bench.units import MIB

MARKS = 8  # points on each curve, as its tokens double, which tell it from others by their shape


def pictures(run: QualityRun) -> list[Picture]:
    """For each protocol, as the tables are: the losses beside the peaks, and the losses on the way."""
    found: list[Picture] = []
    for comparison in compare_quality(run.rows, baseline=""):
        ended = [one for one in comparison.summaries if one.ended]
        labels = dict(zip(map(id, ended), numbered([words.plain(one.model) for one in ended]), strict=True))
        learned = [point for one in ended if (point := _learned(one, labels[id(one)])) is not None]
        curves = [curve for one in ended if (curve := _curve(one, labels[id(one)])) is not None]
        found += [_beside(comparison, learned)] if learned else []
        found += [_falling(curves)] if curves else []
    names = numbered([picture.name for picture in found])
    return [dataclasses.replace(picture, name=name) for picture, name in zip(found, names, strict=True)]


def _beside(comparison: Comparison, learned: Sequence[Learned]) -> Picture:
    each = "; ".join(f"{one.group}: {one.says}" for one in learned)
    return Picture(
        name="loss-peak",
        title=words.plain(protocol_text(comparison.first)),
        says=f"Validation loss over the peak of training; below and to the left is better. {each}.",
        draw=lambda palette: beside_memory(learned, palette),
    )


def _falling(curves: Sequence[Curve]) -> Picture:
    each = "; ".join(f"{one.label}: {list(one.texts.values())[-1]} at the end" for one in curves)
    return Picture(
        name="loss-tokens",
        title=CURVES,
        says=f"Training loss by tokens, the mean of the seeds, with its values on the way in the table. {each}.",
        draw=lambda palette: falling(curves, palette),
    )


def _learned(summary: Summary, label: str) -> Learned | None:
    if summary.loss is None or not summary.peak_bytes:
        return None
    return Learned(label, summary.peak_bytes / MIB, summary.loss.mean, learned_text(summary))


def _curve(summary: Summary, label: str) -> Curve | None:
    """The mean over the seeds, at the tokens that all of their curves have; None where there are none."""
    curves = [dict(row.curve) for row in summary.ended if row.curve]
    shared = [tokens for tokens in (curves[0] if curves else ()) if tokens > 0 and all(tokens in one for one in curves)]
    if not shared:
        return None
    points = {float(tokens): statistics.fmean(one[tokens] for one in curves) for tokens in shared}
    marked = {min(x for x in points if x >= max(points) / 2**halved) for halved in range(MARKS)}
    return Curve(label, points, {tokens: f"{loss:.3f}" for tokens, loss in points.items()}, marked=sorted(marked))
