"""Predictions beside measurements: one against the other, and the error of each case."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import altair

from muse_bench.report.charts.encoding import by_group, logarithmic, tooltip
from muse_bench.report.charts.palette import Palette
from muse_bench.report.charts.picture import WIDTH
from muse_bench.units import MIB

HEIGHT = 380
ROWS = 7  # that the cases of a group are spread over, so that equal errors stay apart


@dataclass(frozen=True, slots=True)
class Point:
    """One case: its group and name, the sizes in bytes, the error as a fraction, and all of it in words."""

    group: str
    case: str
    measured: int
    predicted: int
    error: float
    says: str


def against(points: Sequence[Point], palette: Palette) -> altair.TopLevelMixin:
    """Predicted over measured, both logarithmic; on the line they agree."""
    sizes = [size / MIB for point in points for size in (point.measured, point.predicted)]
    scale, axis = logarithmic(sizes)
    ends = [min(sizes), max(sizes)]
    x = altair.X("measured:Q", title="measured peak, MiB", scale=scale, axis=axis)
    y = altair.Y("predicted:Q", title="predicted peak, MiB", scale=scale, axis=axis)
    line = altair.Chart(altair.InlineData(values=[{"measured": end, "predicted": end} for end in ends]))
    names = list(dict.fromkeys(point.group for point in points))
    color, shape = by_group(names, palette)
    marked = _points(points).mark_point(filled=True, size=60, opacity=0.85).encode(color=color, shape=shape)
    return altair.layer(
        line.mark_line(color=palette.edge, strokeDash=[4, 4]).encode(x=x, y=y),
        marked.encode(x=x, y=y, tooltip=_tooltip()),
    ).properties(width=WIDTH, height=HEIGHT)


def errors(points: Sequence[Point], palette: Palette) -> altair.TopLevelMixin:
    """The error of each case in its group; above zero the prediction says more than was measured."""
    names = list(dict.fromkeys(point.group for point in points))
    color, shape = by_group(names, palette)
    marked = _points(points).mark_point(filled=True, size=60, opacity=0.85).encode(color=color, shape=shape)
    zero = altair.Chart(altair.InlineData(values=[{"error": 0}])).mark_rule(color=palette.edge)
    return altair.layer(
        zero.encode(x="error:Q"),
        marked.encode(
            x=altair.X(
                "error:Q",
                title="error of the predicted peak, of the measured one",
                axis=altair.Axis(format="+.2~%", tickCount=8),
            ),
            y=altair.Y("group:N", sort=names, title=None),
            yOffset="row:Q",
            tooltip=_tooltip(),
        ),
    ).properties(width=WIDTH, height=60 * len(names))


def _points(points: Sequence[Point]) -> altair.Chart:
    values = [
        {**asdict(point), "measured": point.measured / MIB, "predicted": point.predicted / MIB, "row": index % ROWS}
        for index, point in enumerate(points)
    ]
    return altair.Chart(altair.InlineData(values=values))


def _tooltip() -> list[altair.Tooltip]:
    return tooltip([("case", "case"), ("says", "MiB")])
