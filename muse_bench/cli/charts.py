"""Charts as files of their own, SVG or PNG."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from muse_bench.cli.options import OUTPUT
from muse_bench.cli.outputs import check_writable
from muse_bench.errors import UsageError
from muse_bench.record import RunFile, write_whole
from muse_bench.report import html
from muse_bench.report.charts.picture import Picture

FORMATS = ("svg", "png")
Draws = Callable[[RunFile], Sequence[Picture]]
Drawn = TypeVar("Drawn")


@dataclass(frozen=True, kw_only=True)
class ChartOptions:
    """Where charts go, and as what."""

    charts: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write each chart as a file of its own into this folder.", rich_help_panel=OUTPUT
        ),
    ] = None
    chart_format: Annotated[
        str,
        typer.Option("--chart-format", metavar="FORMAT", help="svg or png, for --charts.", rich_help_panel=OUTPUT),
    ] = "svg"

    def check(self) -> None:
        """Makes the folder where there is none. Raises: UsageError when nothing could be drawn, or written there."""
        if self.chart_format not in FORMATS:
            raise UsageError(f"unknown chart format '{self.chart_format}': choose from {', '.join(FORMATS)}")
        if self.charts is None:
            return
        html.check("--charts")
        try:
            self.charts.mkdir(exist_ok=True)
        except OSError as error:
            raise UsageError(f"{self.charts}: cannot be written: {error.strerror or error}") from error
        check_writable(self.charts / f"bars.{self.chart_format}")

    def draw(self, pictures: Callable[[Drawn], Sequence[Picture]], *runs: Drawn) -> None:
        """Draws and writes the charts of each run, where they are asked for: altair is slow to import."""
        if self.charts is not None:
            self.write(*map(pictures, runs))

    def write(self, *groups: Iterable[Picture]) -> None:
        """Writes every chart, each file whole or not at all; those of a second group are in a folder `2`."""
        if self.charts is None:
            return
        for number, pictures in enumerate(groups, 1):
            folder = self.charts if number == 1 else self.charts / str(number)
            folder.mkdir(exist_ok=True)
            for picture in pictures:
                path = folder / f"{picture.name}.{self.chart_format}"
                write_whole(path, getattr(picture, self.chart_format)())


NO_CHARTS = ChartOptions()
