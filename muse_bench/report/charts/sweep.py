"""The pictures of a sweep."""

import math
from collections.abc import Mapping

from muse_bench.analysis.sweep import along, power_law
from muse_bench.record import RunFile
from muse_bench.report import words
from muse_bench.report.charts.curves import Curve
from muse_bench.report.charts.growth import growth
from muse_bench.report.charts.picture import Picture
from muse_bench.report.sweep import FIGURES, NAMES, Grown, title


def pictures(run: RunFile, param: str, fit_from: int) -> list[Picture]:
    """The growth of each figure that there is, in the order of the tables."""
    found = []
    for grown in FIGURES:
        points = along(run.records, param, grown.figure)
        if any(points.values()):
            curves = [_curve(model, values, grown, fit_from) for model, values in points.items() if values]
            found.append(_picture(grown, param, fit_from, curves))
    return found


def _picture(grown: Grown, param: str, fit_from: int, curves: list[Curve]) -> Picture:
    upward = f"{grown.what.partition(',')[0].lower()}, {grown.unit}"
    return Picture(
        name=f"growth-{upward.partition(',')[0].replace(' ', '-')}",
        title=title(grown.what, param),
        says=f"Both axes logarithmic; dashed: the power law fitted from {fit_from:,}. "
        f"{'; '.join(curve.label for curve in curves)}.",
        draw=lambda palette: growth(curves, NAMES[param], upward, palette),
    )


def _curve(model: str, values: Mapping[int, float], grown: Grown, fit_from: int) -> Curve:
    fitted = {x: y for x, y in values.items() if x >= fit_from}
    law = power_law(fitted)
    power = "" if law is None else f", exponent {law.exponent:.3f}"
    fit: dict[float, float] = (
        {} if law is None else {x: math.exp(law.at(x)) / grown.unit_size for x in (min(fitted), max(fitted))}
    )
    return Curve(
        label=f"{words.plain(model)}{power}",
        points={x: y / grown.unit_size for x, y in values.items() if y > 0},
        texts={x: grown.text(y) for x, y in values.items()},
        fit=fit,
    )
