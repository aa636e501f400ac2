"""Peaks side by side: a bar a case, stacked by the ledger's parts, with its size and reduction beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import altair

from muse_bench.report.charts.encoding import by_part, tooltip
from muse_bench.report.charts.palette import Palette
from muse_bench.report.charts.picture import WIDTH
from muse_bench.report.words import CATEGORIES
from muse_bench.units import MIB, format_mib

BAR = 34


@dataclass(frozen=True, slots=True)
class Bar:
    """One case: its label, what holds its peak by the ledger's part in bytes, and the words at the bar's end."""

    label: str
    parts: Mapping[str, int]
    end: str


def bars(rows: Sequence[Bar], palette: Palette) -> altair.TopLevelMixin:
    """The bars in their order from the top; their labels must differ."""
    shown = [part for part in CATEGORIES if any(row.parts.get(part, 0) > 0 for row in rows)]
    held = [
        {"case": row.label, "part": CATEGORIES[part], "order": order, "mib": size / MIB, "text": format_mib(size)}
        for row in rows
        for order, part in enumerate(shown)
        if (size := row.parts.get(part, 0)) > 0
    ]
    ends = [{"case": row.label, "mib": _length(row), "end": row.end} for row in rows]
    cases = altair.Y("case:N", sort=[row.label for row in rows], title=None, axis=altair.Axis(ticks=False))
    longest = max(map(_length, rows), default=0)
    room = altair.Scale(domain=[0, longest * 1.3 or 1], nice=False)  # the words at the longest bar's end fit
    stacked = (
        altair.Chart(altair.InlineData(values=held))
        .mark_bar(stroke=palette.edge, strokeWidth=0.7)
        .encode(
            x=altair.X("mib:Q", title="MiB at the peak", stack="zero", scale=room),
            y=cases,
            color=by_part(shown, palette),
            order="order:Q",
            tooltip=tooltip(_TOOLTIP),
        )
    )
    words = (
        altair.Chart(altair.InlineData(values=ends))
        .mark_text(align="left", dx=6, color=palette.ink)
        .encode(x="mib:Q", y=cases, text="end:N")
    )
    return altair.layer(stacked, words).properties(width=WIDTH, height=BAR * max(len(rows), 1))


_TOOLTIP = (("case", "case"), ("part", "holds"), ("text", "MiB"))


def _length(row: Bar) -> float:
    return sum(size for size in row.parts.values() if size > 0) / MIB
