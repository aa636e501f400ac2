"""Lines of several groups, told apart by colour and by the shape of their points."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import altair

from muse_bench.report.charts.encoding import by_group, tooltip
from muse_bench.report.charts.palette import Palette
from muse_bench.report.charts.picture import WIDTH

HEIGHT = 340


@dataclass(frozen=True, slots=True)
class Curve:
    """A group's figure at each value, and what is said of it; `marked` are the values with a point, all unless told.

    `fit` is a line of its own, dashed.
    """

    label: str
    points: Mapping[float, float]
    texts: Mapping[float, str]
    fit: Mapping[float, float] = field(default_factory=dict)
    marked: Collection[float] | None = None


def lines(curves: Sequence[Curve], x: altair.X, y: altair.Y, palette: Palette) -> altair.TopLevelMixin:
    """The curves along the fields x and y, whose titles the tooltips take."""
    color, shape = by_group([curve.label for curve in curves], palette)
    fitted = _chart(row for curve in curves for row in _rows(curve, curve.fit))
    drawn = _chart(row for curve in curves for row in _rows(curve, curve.points))
    points = _chart(row for curve in curves for row in _rows(curve, _marked(curve)))
    said = tooltip([("group", "model"), ("x", str(x.title)), ("text", str(y.title))])
    return altair.layer(
        fitted.mark_line(strokeDash=[5, 4], strokeWidth=1).encode(x=x, y=y, color=color),
        drawn.mark_line().encode(x=x, y=y, color=color),
        points.mark_point(filled=True, size=70, opacity=1).encode(x=x, y=y, color=color, shape=shape, tooltip=said),
    ).properties(width=WIDTH, height=HEIGHT)


def _marked(curve: Curve) -> Mapping[float, float]:
    return curve.points if curve.marked is None else {x: curve.points[x] for x in curve.marked}


def _chart(rows: Any) -> altair.Chart:
    return altair.Chart(altair.InlineData(values=[*rows]))


def _rows(curve: Curve, points: Mapping[float, float]) -> list[dict[str, Any]]:
    return [{"group": curve.label, "x": x, "y": y, "text": curve.texts.get(x, "")} for x, y in points.items()]
