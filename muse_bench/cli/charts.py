"""Charts as files of their own, SVG or PNG."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from muse_bench.cli.outputs import check_writable
from muse_bench.errors import UsageError
from muse_bench.record import RunFile, write_whole
from muse_bench.report import html
from muse_bench.report.charts.picture import Picture

FORMATS = ("svg", "png")


def check_charts(folder: Path, chart_format: str) -> None:
    """Makes the folder where there is none. Raises: UsageError when nothing could be drawn, or written there."""
    if chart_format not in FORMATS:
        raise UsageError(f"unknown chart format '{chart_format}': choose from {', '.join(FORMATS)}")
    html.check("--charts")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written: {error.strerror or error}") from error
    check_writable(folder / f"bars.{chart_format}")


def write_charts(folder: Path, chart_format: str, runs: Sequence[RunFile]) -> None:
    """Writes every chart of the runs, each file whole or not at all; those of a second run are in a folder `2`."""
    for path, picture in _placed(folder, runs):
        path.parent.mkdir(exist_ok=True)
        write_whole(path.with_name(f"{path.name}.{chart_format}"), getattr(picture, chart_format)())


def _placed(folder: Path, runs: Sequence[RunFile]) -> Iterator[tuple[Path, Picture]]:
    from muse_bench.report.charts import records  # altair is slow to import

    for number, run in enumerate(runs, 1):
        for picture in records.pictures(run.records):
            yield (folder if number == 1 else folder / str(number)) / picture.name, picture
