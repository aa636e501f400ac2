"""Growth along one size, both axes logarithmic: a line a model, and the power law fitted to it."""

from collections.abc import Sequence

import altair

from muse_bench.report.charts.curves import Curve, lines
from muse_bench.report.charts.encoding import logarithmic
from muse_bench.report.charts.palette import Palette


def growth(curves: Sequence[Curve], across: str, upward: str, palette: Palette) -> altair.TopLevelMixin:
    """The curves, each with its fit c x^p if it has one; `across` and `upward` title the axes."""
    x = altair.X("x:Q", title=across, scale=altair.Scale(type="log", nice=False, padding=12), axis=_axis(curves))
    scale, axis = logarithmic([y for curve in curves for y in (*curve.points.values(), *curve.fit.values())])
    return lines(curves, x, altair.Y("y:Q", title=upward, scale=scale, axis=axis), palette)


def _axis(curves: Sequence[Curve]) -> altair.Axis:
    values = sorted({x for curve in curves for x in curve.points})
    return altair.Axis(values=values, format=",.10~r", labelOverlap=True)
