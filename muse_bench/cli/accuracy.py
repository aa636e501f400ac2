"""`muse-bench accuracy`: predictions beside measurements of the same cases."""

from pathlib import Path
from typing import Annotated

import typer

from muse_bench.analysis.accuracy import pair_up
from muse_bench.cli import console
from muse_bench.errors import ExitCode, UsageError
from muse_bench.record import read_run_file, write_whole
from muse_bench.report.accuracy import accuracy_sheets
from muse_bench.report.sheet import render_markdown, render_terminal


def accuracy(
    records: Annotated[list[Path], typer.Argument(metavar="RECORDS...", help="Measured and predicted record files.")],
    markdown: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the tables here, as Markdown.")
    ] = None,
) -> int:
    """Show how far predictions are from measurements of the same cases.

    Errors come by part of the calibration matrix, then how often a predicted
    verdict came true, then each case. Of several predictions of a case the
    last one counts.

    \b
    Examples:
      muse-bench accuracy measured.json predicted.json
      muse-bench accuracy reports/h200/calibration-*.json --output accuracy.md
    """
    if markdown is not None and markdown.suffix != ".md":
        raise UsageError(f"{markdown}: unknown suffix '{markdown.suffix}': use .md")
    runs = [read_run_file(path) for path in records]
    if not pair_up(record for run in runs for record in run.records):
        raise UsageError("no case is both measured and predicted for the same GPU in these files")
    sheets = accuracy_sheets(runs)
    if markdown is not None:
        write_whole(markdown, render_markdown(*sheets))
    console.stdout().print(render_terminal(*sheets))
    return ExitCode.OK
