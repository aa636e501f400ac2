"""`muse-bench accuracy`: predictions beside measurements of the same cases."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from muse_bench.analysis.accuracy import pair_up
from muse_bench.cli import console
from muse_bench.cli.charts import ChartOptions
from muse_bench.errors import ExitCode, UsageError
from muse_bench.record import RunFile, join_commands, read_run_file, write_whole
from muse_bench.report import html, words
from muse_bench.report.accuracy import accuracy_sheets
from muse_bench.report.charts.picture import Picture
from muse_bench.report.sheet import Sheet, render_markdown, render_terminal


def accuracy(
    charts: ChartOptions,
    records: Annotated[list[Path], typer.Argument(metavar="RECORDS...", help="Measured and predicted record files.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the tables here: .md, or .html with charts."),
    ] = None,
) -> int:
    """Show how far predictions are from measurements of the same cases.

    Errors come by part of the calibration matrix, then how often a predicted
    verdict came true, then each case. Of several predictions of a case the
    last one counts.

    \b
    Examples:
      muse-bench accuracy measured.json predicted.json
      muse-bench accuracy reports/h200/calibration-*.json --output accuracy.html
    """
    if output is not None and output.suffix not in (".md", html.SUFFIX):
        raise UsageError(f"{output}: unknown suffix '{output.suffix}': use .md or {html.SUFFIX}")
    if output is not None and output.suffix == html.SUFFIX:
        html.check()
    charts.check()
    runs = [read_run_file(path) for path in records]
    if not pair_up(record for run in runs for record in run.records):
        raise UsageError("no case is both measured and predicted for the same GPU in these files")
    sheets = accuracy_sheets(runs)
    if output is not None:
        draw = _page if output.suffix == html.SUFFIX else _document
        write_whole(output, draw(runs, sheets))
    charts.draw(_pictures, runs)
    console.stdout().print(render_terminal(*sheets))
    return ExitCode.OK


def _pictures(runs: Sequence[RunFile]) -> Sequence[Picture]:
    from muse_bench.report.charts import accuracy as charts  # altair is slow to import

    return charts.pictures(runs)


def _document(runs: Sequence[RunFile], sheets: Sequence[Sheet]) -> str:
    return render_markdown(*sheets, command=_commands(runs))


def _commands(runs: Sequence[RunFile]) -> str | None:
    """What made the records."""
    return join_commands(run.command for run in runs)


def _page(runs: Sequence[RunFile], sheets: Sequence[Sheet]) -> str:
    environments = [run.environment for run in runs]
    facts = [
        ("figures", "measured and predicted"),
        ("GPU", ", ".join(dict.fromkeys(filter(None, (one.gpu for one in environments))))),
        ("software", "; ".join(dict.fromkeys(map(words.software, runs)))),
    ]
    return html.render_sheets(sheets[0].title, facts, sheets, _pictures(runs), _commands(runs))
