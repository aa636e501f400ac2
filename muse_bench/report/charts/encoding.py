"""What several charts encode alike: the ledger's parts by colour, groups by colour and shape, tooltips."""

from collections.abc import Iterable, Sequence

import altair

from muse_bench.report.charts.palette import Palette
from muse_bench.report.words import CATEGORIES

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")


def by_part(parts: Sequence[str], palette: Palette) -> altair.Color:
    """The field `part`, which holds labels of the ledger's parts."""
    domain, colours = [CATEGORIES[part] for part in parts], [palette.parts[part] for part in parts]
    return altair.Color("part:N", title=None, scale=altair.Scale(domain=domain, range=colours))


def by_group(names: Sequence[str], palette: Palette) -> tuple[altair.Color, altair.Shape]:
    """The field `group` by colour and, for those who see no colours, by shape; pairs repeat late."""
    count = len(palette.series)
    colours = [palette.series[index % count] for index in range(len(names))]
    shapes = [SHAPES[(index + index // count) % len(SHAPES)] for index in range(len(names))]
    domain = list(names)
    return (
        altair.Color("group:N", title=None, scale=altair.Scale(domain=domain, range=colours)),
        altair.Shape("group:N", title=None, scale=altair.Scale(domain=domain, range=shapes)),
    )


def tooltip(fields: Iterable[tuple[str, str]]) -> list[altair.Tooltip]:
    """A line for each field, under its title."""
    return [altair.Tooltip(f"{field}:N", title=title) for field, title in fields]
