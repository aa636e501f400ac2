"""The timeline of one step as a stacked bar chart of terminal characters: bytes up, time to the right."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise

from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from muse_bench.ledger import Ledger, TimelinePoint
from muse_bench.report.words import plain
from muse_bench.units import format_mib

ROWS = 9
WIDEST = 100


@dataclass(frozen=True, slots=True)
class Band:
    """One layer of the stack: its label, the ledger's parts that it sums, and how its cells look."""

    label: str
    parts: tuple[str, ...]
    style: str
    shade: str
    letter: str


BANDS = (
    Band("parameters", ("parameters", "buffers"), "blue", "█", "P"),
    Band("gradients", ("gradients",), "green", "▓", "G"),
    Band("optimizer state", ("optimizer_state",), "magenta", "▒", "S"),
    Band("activations", ("activations_saved", "activations_temporary"), "yellow", "░", "A"),
    Band("other", ("inputs", "workspace", "communication", "unattributed"), "white", "·", "o"),
)


class Timeline:
    """Allocated bytes by category at each moment of a step, scaled to the terminal; the peak is marked."""

    def __init__(self, points: Sequence[TimelinePoint]) -> None:
        self._points = points

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        peak = max(point.ledger.total for point in self._points)
        margin = len(format_mib(peak)) + 1
        points = _resample(self._points, min(options.max_width, WIDEST) - margin - 1)
        coloured = console.color_system is not None and not console.no_color
        yield _mark(points, peak, margin)
        for row in range(ROWS, 0, -1):
            yield _row(row, points, peak, margin, [_glyph(band, coloured, options.ascii_only) for band in BANDS])
        yield _phases(points, margin)
        yield _legend(self._points, margin, coloured, options.ascii_only)


def _resample(points: Sequence[TimelinePoint], width: int) -> list[TimelinePoint]:
    """`width` points: each column the largest of the moments it stands for, so that the peak stays."""
    count = len(points)
    if count <= width:
        return [points[count * column // width] for column in range(width)]
    edges = [count * column // width for column in range(width + 1)]
    spans = (points[start:end] for start, end in pairwise(edges))
    return [max(span, key=lambda point: point.ledger.total) for span in spans]


def _row(row: int, points: Sequence[TimelinePoint], peak: int, margin: int, glyphs: Sequence[str]) -> Text:
    """The cells at one height; a cell shows the band that its middle lies in."""
    level = (row - 0.5) * peak / ROWS
    scale = {ROWS: format_mib(peak), (ROWS + 1) // 2: format_mib(round(peak * ((ROWS + 1) // 2) / ROWS))}
    text = Text(f"{scale.get(row, ''):>{margin - 1}} ", style="dim", no_wrap=True)
    for point in points:
        band = _band_at(point.ledger, level)
        text.append(" " if band is None else glyphs[band], style="" if band is None else f"not dim {BANDS[band].style}")
    return text


def _band_at(ledger: Ledger, level: float) -> int | None:
    tops = accumulate(sum(getattr(ledger, part) for part in band.parts) for band in BANDS)
    return next((index for index, top in enumerate(tops) if level < top), None)


def _glyph(band: Band, coloured: bool, ascii_only: bool) -> str:
    if ascii_only:
        return band.letter
    return "█" if coloured else band.shade


def _mark(points: Sequence[TimelinePoint], peak: int, margin: int) -> Text:
    """A line above the bars with the peak's size, beside the column where it is."""
    column = next(index for index, point in enumerate(points) if point.ledger.total == peak)
    label = f"peak {format_mib(peak)} MiB"
    before = column > len(label)
    marked = f"{label} v".rjust(column + 1) if before else " " * column + f"v {label}"
    return Text(" " * margin + marked, style="bold", no_wrap=True)


def _phases(points: Sequence[TimelinePoint], margin: int) -> Text:
    """The phases under the bars, each label cut to its phase's width."""
    text = Text(f"{'0':>{margin - 1}} ", style="dim", no_wrap=True)
    for phase, span in groupby(points, key=lambda point: point.phase):
        width = len(list(span))
        text.append(f"|{plain(phase)}"[:width].ljust(width))
    return text


def _legend(points: Sequence[TimelinePoint], margin: int, coloured: bool, ascii_only: bool) -> Text:
    text = Text(" " * margin)
    for band in BANDS:
        if any(getattr(point.ledger, part) for point in points for part in band.parts):
            text.append(_glyph(band, coloured, ascii_only), style=band.style).append(f" {band.label}   ")
    text.rstrip()
    return text
