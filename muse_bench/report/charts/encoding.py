"""What several charts encode alike: the ledger's parts by colour, groups by colour and shape, tooltips."""

import math
from collections.abc import Iterable, Sequence

import altair

from muse_bench.report.charts.palette import COLUMNS, LABEL_LIMIT, Palette
from muse_bench.report.charts.picture import LETTER, WIDTH
from muse_bench.report.words import CATEGORIES

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")

SYMBOL = 30  # pixels of a legend's symbol and the room around a label
MARGIN = 1.3  # between the outermost points of a logarithmic axis and its ends


def by_part(parts: Sequence[str], palette: Palette) -> altair.Color:
    """The field `part`, which holds labels of the ledger's parts."""
    domain, colours = [CATEGORIES[part] for part in parts], [palette.parts[part] for part in parts]
    return altair.Color("part:N", title=None, scale=altair.Scale(domain=domain, range=colours))


def by_group(names: Sequence[str], palette: Palette) -> tuple[altair.Color, altair.Shape]:
    """The field `group` by colour and, for those who see no colours, by shape; pairs repeat late."""
    count = len(palette.series)
    colours = [palette.series[index % count] for index in range(len(names))]
    shapes = [SHAPES[(index + index // count) % len(SHAPES)] for index in range(len(names))]
    domain, legend = list(names), altair.Legend(columns=_columns(names))
    return (
        altair.Color("group:N", title=None, legend=legend, scale=altair.Scale(domain=domain, range=colours)),
        altair.Shape("group:N", title=None, legend=legend, scale=altair.Scale(domain=domain, range=shapes)),
    )


def _columns(names: Sequence[str]) -> int:
    """As many columns of a legend as the chart's width holds, and no more than any legend has."""
    widest = min(max(map(len, names), default=0) * LETTER, LABEL_LIMIT)
    return max(1, min(COLUMNS, int(WIDTH // (widest + SYMBOL))))


def logarithmic(values: Sequence[float]) -> tuple[altair.Scale, altair.Axis]:
    """A scale around the values, which are above zero, with a line at each power of ten, or at 1, 2 and 5 of few."""
    low, high = min(values) / MARGIN, max(values) * MARGIN
    powers = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    fine = [step * power for power in powers for step in (1, 2, 5)]
    within = [[mark for mark in marks if low <= mark <= high] for marks in (powers, fine)]
    marks = within[0] if len(within[0]) > 2 else within[1]
    return altair.Scale(type="log", domain=[low, high], nice=False), altair.Axis(values=marks, format=",~r")


def tooltip(fields: Iterable[tuple[str, str]]) -> list[altair.Tooltip]:
    """A line for each field, under its title."""
    return [altair.Tooltip(f"{field}:N", title=title) for field, title in fields]
