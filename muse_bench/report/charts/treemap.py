"""Who holds the peak: a rectangle a module, in proportion to its bytes, split by the ledger's parts."""

from collections.abc import Iterator, Sequence
from typing import Any

import altair

from muse_bench.ledger import LEDGER_FIELDS, ModuleRow
from muse_bench.report.charts.encoding import by_part, tooltip
from muse_bench.report.charts.palette import Palette
from muse_bench.report.charts.picture import LETTER, WIDTH
from muse_bench.report.charts.squarify import Rectangle, slices, squarify
from muse_bench.report.words import CATEGORIES, plain
from muse_bench.units import format_mib

HEIGHT = 380
LINE = 16  # pixels of a line of text
MARGIN = 5


def treemap(modules: Sequence[ModuleRow], palette: Palette) -> altair.TopLevelMixin:
    """The modules that hold something, the largest in the upper left."""
    held = sorted(((_size(row), row) for row in modules if _size(row)), key=lambda pair: -pair[0])
    frame = Rectangle(0, 0, WIDTH, HEIGHT)
    placed = list(zip((row for _, row in held), squarify([size for size, _ in held], frame), strict=True))
    shown = [part for part in LEDGER_FIELDS if any(getattr(row.ledger, part) > 0 for row, _ in placed)]
    pieces = [piece for row, where in placed for piece in _pieces(row, where)]
    filled = _rectangles(pieces).mark_rect(stroke=palette.edge, strokeWidth=0.5)
    filled = filled.encode(
        color=by_part(shown, palette),
        tooltip=tooltip(_TOOLTIP),
    )
    frames = _rectangles([_corners(where) for _, where in placed])
    outlines = frames.mark_rect(fillOpacity=0, stroke=palette.paper, strokeWidth=3, tooltip=None)
    labels = altair.Chart(altair.InlineData(values=[line for row, where in placed for line in _lines(row, where)]))
    labels = labels.encode(x="x:Q", y="y:Q", text="line:N")
    # Letters stand on any colour: each has a rim where some part is dark.
    rims = labels.mark_text(align="left", baseline="top", stroke=palette.rim, strokeWidth=4, strokeJoin="round")
    letters = labels.mark_text(align="left", baseline="top", color=palette.label)
    return altair.layer(filled, outlines, rims, letters).properties(width=WIDTH, height=HEIGHT)


_TOOLTIP = (("module", "module"), ("part", "holds"), ("text", "MiB"), ("total", "MiB of the module"))


def _rectangles(values: Sequence[dict[str, Any]]) -> altair.Chart:
    return altair.Chart(altair.InlineData(values=list(values))).encode(
        x=altair.X("x:Q", axis=None, scale=altair.Scale(domain=[0, WIDTH], nice=False)),
        x2="x2:Q",
        y=altair.Y("y:Q", axis=None, scale=altair.Scale(domain=[0, HEIGHT], nice=False, reverse=True)),
        y2="y2:Q",
    )


def _pieces(row: ModuleRow, where: Rectangle) -> Iterator[dict[str, Any]]:
    """The module's rectangle, cut by the ledger's parts."""
    parts = [(part, size) for part in LEDGER_FIELDS if (size := getattr(row.ledger, part)) > 0]
    for (part, size), piece in zip(parts, slices([size for _, size in parts], where), strict=True):
        said = {"part": CATEGORIES[part], "text": format_mib(size), "total": format_mib(_size(row))}
        yield {"module": plain(row.module), **said, **_corners(piece)}


def _lines(row: ModuleRow, where: Rectangle) -> Iterator[dict[str, Any]]:
    """The module's name and size where they fit, the name cut where it must be."""
    letters = int((where.width - 2 * MARGIN) / LETTER)
    if letters < 4 or where.height < LINE + MARGIN:
        return
    name = plain(row.module)
    cut = name if len(name) <= letters else f"{name[: letters - 1]}…"
    yield {"line": cut, "x": where.x + MARGIN, "y": where.y + MARGIN}
    size = f"{format_mib(_size(row))} MiB"
    if len(size) <= letters and where.height >= 2 * LINE + MARGIN:
        yield {"line": size, "x": where.x + MARGIN, "y": where.y + MARGIN + LINE}


def _corners(where: Rectangle) -> dict[str, float]:
    return {"x": where.x, "x2": where.x + where.width, "y": where.y, "y2": where.y + where.height}


def _size(row: ModuleRow) -> int:
    """What is drawn of the module: an unattributed part may be less than nothing."""
    return sum(max(getattr(row.ledger, part), 0) for part in LEDGER_FIELDS)
