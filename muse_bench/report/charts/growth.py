"""Growth along one size, both axes logarithmic: a line a model, and the power law fitted to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair

from muse_bench.report.charts.encoding import by_group, logarithmic, tooltip
from muse_bench.report.charts.palette import Palette
from muse_bench.report.charts.picture import WIDTH

HEIGHT = 340


@dataclass(frozen=True, slots=True)
class Curve:
    """A model's figure at each value, and what is said of it; the fit is c x^p through the points from a value on."""

    label: str
    points: Mapping[int, float]
    texts: Mapping[int, str]
    fit: Mapping[int, float]


def growth(curves: Sequence[Curve], across: str, upward: str, palette: Palette) -> altair.TopLevelMixin:
    """The curves, told apart by colour and shape; `across` and `upward` title the axes."""
    color, shape = by_group([curve.label for curve in curves], palette)
    x = altair.X("x:Q", title=across, scale=altair.Scale(type="log", nice=False, padding=12), axis=_axis(curves))
    scale, axis = logarithmic([y for curve in curves for y in (*curve.points.values(), *curve.fit.values())])
    y = altair.Y("y:Q", title=upward, scale=scale, axis=axis)
    fitted = _chart([curve for curve in curves if curve.fit], "fit").mark_line(strokeDash=[5, 4], strokeWidth=1)
    measured = _chart(curves, "points")
    said = tooltip([("group", "model"), ("x", across), ("text", upward)])
    return altair.layer(
        fitted.encode(x=x, y=y, color=color),
        measured.mark_line().encode(x=x, y=y, color=color),
        measured.mark_point(filled=True, size=70, opacity=1).encode(x=x, y=y, color=color, shape=shape, tooltip=said),
    ).properties(width=WIDTH, height=HEIGHT)


def _chart(curves: Sequence[Curve], what: str) -> altair.Chart:
    return altair.Chart(altair.InlineData(values=[row for curve in curves for row in _rows(curve, what)]))


def _rows(curve: Curve, what: str) -> list[dict[str, Any]]:
    points: Mapping[int, float] = getattr(curve, what)
    return [{"group": curve.label, "x": x, "y": y, "text": curve.texts.get(x, "")} for x, y in points.items()]


def _axis(curves: Sequence[Curve]) -> altair.Axis:
    values = sorted({x for curve in curves for x in curve.points})
    return altair.Axis(values=values, format=",d", labelOverlap=True)
