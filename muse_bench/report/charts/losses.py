"""What models learned: the loss as tokens go by, and where it ended beside the memory that training took."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import altair

from muse_bench.report.charts.curves import HEIGHT, Curve, lines
from muse_bench.report.charts.encoding import by_group, logarithmic, tooltip
from muse_bench.report.charts.palette import Palette
from muse_bench.report.charts.picture import WIDTH

NEAR = altair.Scale(zero=False, nice=True)  # losses lie far from 0, and near each other


@dataclass(frozen=True, slots=True)
class Learned:
    """A model, the peak of its training in MiB, the loss that it came to, and both in words."""

    group: str
    mib: float
    loss: float
    says: str


def falling(curves: Sequence[Curve], palette: Palette) -> altair.TopLevelMixin:
    """The training losses by tokens, which are logarithmic."""
    scale, axis = logarithmic([x for curve in curves for x in curve.points])
    x = altair.X("x:Q", title="tokens", scale=scale, axis=axis)
    return lines(curves, x, altair.Y("y:Q", title="training loss, nats a token", scale=NEAR), palette)


def beside_memory(models: Sequence[Learned], palette: Palette) -> altair.TopLevelMixin:
    """The validation losses over the peaks, which are logarithmic; what is better lies below and to the left."""
    color, shape = by_group([one.group for one in models], palette)
    scale, axis = logarithmic([one.mib for one in models])
    points = altair.Chart(altair.InlineData(values=[asdict(one) for one in models]))
    drawn = points.mark_point(filled=True, size=110, opacity=1).encode(
        x=altair.X("mib:Q", title="peak of training, MiB", scale=scale, axis=axis),
        y=altair.Y("loss:Q", title="validation loss, nats a token", scale=NEAR),
        color=color,
        shape=shape,
        tooltip=tooltip([("group", "model"), ("says", "came to")]),
    )
    return altair.layer(drawn).properties(width=WIDTH, height=HEIGHT)
