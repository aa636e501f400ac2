"""How long implementations of one kernel take: two bars each, and the limit that the card sets as a mark on each."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import altair

from muse_bench.report.charts.encoding import tooltip
from muse_bench.report.charts.palette import Palette
from muse_bench.report.charts.picture import WIDTH

BAR = 20
PASSES = ("forward", "forward and backward")


@dataclass(frozen=True, slots=True)
class Taken:
    """One pass of one implementation: its time in milliseconds, 0 without one, the limit, and the words at its end."""

    contender: str
    name: str
    milliseconds: float
    limit: float | None
    end: str


def times(rows: Sequence[Taken], palette: Palette) -> altair.TopLevelMixin:
    """The bars, in their order from the top."""
    contenders = list(dict.fromkeys(row.contender for row in rows))
    base = altair.Chart(altair.InlineData(values=[asdict(row) for row in rows]))
    longest = max(max(row.milliseconds, row.limit or 0) for row in rows)
    room = altair.Scale(domain=[0, longest * 1.3 or 1], nice=False)  # the words at the longest bar's end fit
    x = altair.X("milliseconds:Q", title="milliseconds", scale=room)
    y = altair.Y("contender:N", sort=contenders, title=None, axis=altair.Axis(ticks=False))
    offset = altair.YOffset("name:N", sort=list(PASSES))
    colours = altair.Scale(domain=list(PASSES), range=list(palette.series[: len(PASSES)]))
    said = tooltip([("contender", "with"), ("name", "pass"), ("end", "takes")])
    return altair.layer(
        base.mark_bar(stroke=palette.edge, strokeWidth=0.7).encode(
            x=x, y=y, yOffset=offset, color=altair.Color("name:N", title=None, scale=colours), tooltip=said
        ),
        base.transform_filter("datum.limit !== null")
        .mark_tick(color=palette.ink, thickness=2, size=BAR * 0.8)
        .encode(x="limit:Q", y=y, yOffset=offset),
        base.mark_text(align="left", dx=6, color=palette.ink).encode(x=x, y=y, yOffset=offset, text="end:N"),
    ).properties(width=WIDTH, height=BAR * len(PASSES) * len(contenders))
