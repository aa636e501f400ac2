"""The colours of charts and pages, for light and dark paper, and for a page whose style decides between the two.

The colours of the ledger's parts are Paul Tol's `muted` and `light` schemes, the latter with a colour of his `discrete
rainbow`, which colour-blind readers tell apart.
Source: Tol, Colour Schemes, SRON/EPS/TN/09-002 (2021).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from muse_bench.ledger import LEDGER_FIELDS

NAMES = ("paper", "ink", "faint", "edge", "grid", "label", "rim")
LABEL_LIMIT, COLUMNS = 260, 6  # pixels of a label, columns of a legend
FONT = "system-ui, 'Liberation Sans', Arial, sans-serif"


@dataclass(frozen=True, slots=True)
class Palette:
    """CSS colours: paper, text, fainter text, outlines, grid lines, the ledger's parts, and lines of a series.

    `label` is text on any of the parts, with a rim around its letters.
    """

    paper: str
    ink: str
    faint: str
    edge: str
    grid: str
    label: str
    rim: str
    parts: Mapping[str, str]
    series: tuple[str, ...]

    def variables(self) -> Iterator[tuple[str, str]]:
        """Each colour under the name that a page's style gives it."""
        for name in NAMES:
            yield f"--{name}", getattr(self, name)
        yield from ((f"--part-{part}", colour) for part, colour in self.parts.items())
        yield from ((f"--series-{index}", colour) for index, colour in enumerate(self.series))


def _parts(colours: str) -> dict[str, str]:
    return dict(zip(LEDGER_FIELDS, colours.split(), strict=True))


LIGHT = Palette(
    paper="#ffffff",
    ink="#1b1f24",
    faint="#57606a",
    edge="#6e7781",
    grid="#d8dee4",
    label="#1b1f24",
    rim="#ffffff",
    parts=_parts("#332288 #88ccee #117733 #aa4499 #ddcc77 #cc6677 #44aa99 #999933 #882255 #dddddd"),
    series=("#332288", "#cc6677", "#117733", "#aa4499", "#882255", "#2f8f80", "#77771f"),
)
DARK = Palette(
    paper="#14171c",
    ink="#e8ebef",
    faint="#a5afba",
    edge="#8b96a2",
    grid="#353c45",
    label="#14171c",
    rim="transparent",  # every part is light enough
    parts=_parts("#77aadd #99ddff #44bb99 #ffaabb #eedd88 #ee8866 #bbcc33 #aaaa00 #caaccb #dddddd"),
    series=("#77aadd", "#ee8866", "#44bb99", "#ffaabb", "#eedd88", "#99ddff", "#bbcc33"),
)


def _by_style() -> Palette:
    """The palette whose colours are the variables of a page's style."""
    named = {name: f"var(--{name})" for name in NAMES}
    parts = {part: f"var(--part-{part})" for part in LEDGER_FIELDS}
    return Palette(**named, parts=parts, series=tuple(f"var(--series-{index})" for index in range(len(LIGHT.series))))


BY_STYLE = _by_style()


def configuration(palette: Palette) -> dict[str, Any]:
    """How axes, legends and text look in every chart."""
    text = {"labelColor": palette.ink, "titleColor": palette.ink, "labelFontSize": 12, "titleFontSize": 12}
    return {
        "background": palette.paper,
        "font": FONT,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "view": {"stroke": None},
        "axis": {
            **text,
            "titleFontWeight": "normal",
            "gridColor": palette.grid,
            "domainColor": palette.edge,
            "tickColor": palette.edge,
            "labelLimit": LABEL_LIMIT,
        },
        "legend": {**text, "orient": "bottom", "columns": COLUMNS, "labelLimit": LABEL_LIMIT, "symbolStrokeWidth": 0.7},
        "title": {"color": palette.ink, "anchor": "start", "fontSize": 14},
        "text": {"color": palette.ink, "fontSize": 12},
    }
