"""A picture: a chart with its name and what it says in words, and its forms as a specification, SVG or PNG."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muse_bench.report.charts.palette import LIGHT, Palette, configuration

if TYPE_CHECKING:
    import altair

WIDTH = 940  # pixels of every chart, so that labels can be measured before it is drawn
LETTER = 7.2  # pixels that a letter of 12 takes, about
PIXEL_RATIO = 2


@dataclass(frozen=True, slots=True)
class Picture:
    """A chart that a palette is still to be chosen for. `name` is that of its file, without a suffix."""

    name: str
    title: str
    says: str
    draw: Callable[[Palette], "altair.TopLevelMixin"]

    def specification(self, palette: Palette) -> dict[str, Any]:
        """The chart in Vega-Lite's JSON."""
        chart: dict[str, Any] = self.draw(palette).to_dict()
        return {**chart, "config": configuration(palette), "description": f"{self.title}. {self.says}"}

    def svg(self) -> str:
        """The chart on light paper as an SVG file's text."""
        import vl_convert

        return vl_convert.vegalite_to_svg(self._titled())

    def png(self) -> bytes:
        """The chart on light paper as a PNG file."""
        import vl_convert

        return vl_convert.vegalite_to_png(self._titled(), scale=PIXEL_RATIO)

    def _titled(self) -> dict[str, Any]:
        return {**self.specification(LIGHT), "title": self.title, "padding": 12}
