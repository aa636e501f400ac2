"""Memory over one step: a stacked area by the ledger's parts, with the peak marked."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import altair

from muse_bench.ledger import LEDGER_FIELDS, TimelinePoint
from muse_bench.report.charts.encoding import by_part, tooltip
from muse_bench.report.charts.palette import Palette
from muse_bench.report.charts.picture import LETTER, WIDTH
from muse_bench.report.words import CATEGORIES, plain
from muse_bench.units import MIB, format_mib

HEIGHT = 300
SCALE = "at:Q"


def timeline(points: Sequence[TimelinePoint], holders: Sequence[str], palette: Palette) -> altair.TopLevelMixin:
    """The points in their order; `holders` are lines that say what holds the peak."""
    shown = [part for part in LEDGER_FIELDS if any(getattr(point.ledger, part) > 0 for point in points)]
    top = max(point.ledger.total for point in points) / MIB
    x = altair.X(
        SCALE,
        title="allocations and releases, in their order",
        scale=altair.Scale(domain=[0, len(points)], nice=False),
        axis=altair.Axis(labels=False, ticks=False, grid=False),
    )
    height = altair.Scale(domain=[0, top * 1.12 or 1], nice=False)  # room for the peak's label
    areas = (
        altair.Chart(altair.InlineData(values=list(_held(points, shown))))
        .mark_area(interpolate="step-after", stroke=palette.edge, strokeWidth=0.5)
        .encode(
            x=x,
            y=altair.Y("mib:Q", title="MiB allocated", stack="zero", scale=height),
            color=by_part(shown, palette),
            order="order:Q",
        )
    )
    layers = [areas, *_phases(points, palette), _pointed(points, shown, palette), *_peak(points, holders, palette)]
    return altair.layer(*layers).properties(width=WIDTH, height=HEIGHT)


def _held(points: Sequence[TimelinePoint], shown: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What each point holds until the next; the last is there twice, so that it has a width too."""
    for at, point in enumerate([*points, points[-1]]):
        for order, part in enumerate(shown):
            size = max(getattr(point.ledger, part), 0)
            yield {"at": at, "part": CATEGORIES[part], "order": order, "mib": size / MIB}


def _phases(points: Sequence[TimelinePoint], palette: Palette) -> Iterator[altair.Chart]:
    """A line where each phase begins, and its name where there is room for it."""
    values, begin = [], 0
    for phase, span in groupby(points, key=lambda point: plain(point.phase)):
        count = len(list(span))
        fits = count / len(points) * (WIDTH - 80) > (len(phase) + 1) * LETTER
        values.append({"at": begin, "phase": phase if fits else ""})
        begin += count
    base = altair.Chart(altair.InlineData(values=values)).encode(x=SCALE)
    yield base.mark_rule(color=palette.edge, strokeDash=[3, 3])
    yield base.mark_text(align="left", baseline="bottom", color=palette.faint).encode(
        text="phase:N", y=altair.value(-4)
    )


def _pointed(points: Sequence[TimelinePoint], shown: Sequence[str], palette: Palette) -> altair.Chart:
    """The moment that is pointed at, whose tooltip says what lives there."""
    values = [
        {"at": at, "until": at + 1, "phase": plain(point.phase), "total": format_mib(point.ledger.total)}
        | {part: format_mib(getattr(point.ledger, part)) for part in shown}
        for at, point in enumerate(points)
    ]
    pointed = altair.selection_point(on="pointerover", clear="pointerout", fields=["at"], empty=False)
    said = [("phase", "phase"), ("total", "MiB allocated"), *((part, CATEGORIES[part]) for part in shown)]
    columns: altair.Chart = (
        altair.Chart(altair.InlineData(values=values))
        .mark_rect(fill=palette.ink, stroke=None)
        .encode(
            x=SCALE,
            x2="until:Q",
            opacity=altair.condition(pointed, altair.value(0.5), altair.value(0)),
            tooltip=tooltip(said),
        )
        .add_params(pointed)
    )
    return columns


def _peak(points: Sequence[TimelinePoint], holders: Sequence[str], palette: Palette) -> Iterator[altair.Chart]:
    """A point at the peak and its size above it, on the side with more room."""
    at = max(range(len(points)), key=lambda index: points[index].ledger.total)
    total = points[at].ledger.total
    said = {f"holder{index}": line for index, line in enumerate(holders)}
    label = f"peak {format_mib(total)} MiB"
    marked = {"at": at, "mib": total / MIB, "peak": label, "phase": plain(points[at].phase), **said}
    base = altair.Chart(altair.InlineData(values=[marked])).encode(
        x=SCALE,
        y="mib:Q",
        tooltip=tooltip(
            [("peak", "the peak"), ("phase", "phase"), *((name, f"holder {at}") for at, name in enumerate(said, 1))]
        ),
    )
    yield base.mark_point(shape="triangle-down", size=90, filled=True, color=palette.ink, yOffset=-6, opacity=1)
    right = at > len(points) / 2
    yield base.mark_text(
        align="right" if right else "left", dx=-10 if right else 10, dy=-8, fontWeight="bold", color=palette.ink
    ).encode(text="peak:N")
