"""`muse-bench report`: saved records, rendered again."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from muse_bench.analysis.comparison import add_reductions, choose_baseline
from muse_bench.cli import console
from muse_bench.cli.charts import ChartOptions
from muse_bench.cli.options import OUTPUT, Baseline, Output
from muse_bench.cli.outputs import Outputs, embedded
from muse_bench.cli.saved import read_records
from muse_bench.errors import ExitCode, UsageError
from muse_bench.record import RunFile, write_whole
from muse_bench.report import document, formats
from muse_bench.report.single import single
from muse_bench.report.table import Comparison

TERMINAL = "table"


def report(
    pictures: ChartOptions,
    records: Annotated[list[Path], typer.Argument(metavar="RECORDS...", help="Files that --output x.json wrote.")],
    format_name: Annotated[
        str,
        typer.Option("--format", metavar="FORMAT", help="table, csv, html, json or markdown.", rich_help_panel=OUTPUT),
    ] = TERMINAL,
    output: Output = None,
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Put the Markdown into this file, between its markers.", rich_help_panel=OUTPUT
        ),
    ] = None,
    baseline: Baseline = None,
) -> int:
    """Render saved records again, as a table or in another format.

    Files from one environment become one report; files from several keep a
    title each. With --baseline, reductions are computed anew. With --into, the
    Markdown replaces what stands between the lines
    <!-- muse-bench: begin NAME --> and <!-- muse-bench: end NAME --> of a file,
    NAME being the first record file's without its suffix.

    \b
    Examples:
      muse-bench report peaks.json
      muse-bench report monday.json tuesday.json --format markdown
      muse-bench report peaks.json --output peaks.html
      muse-bench report peaks.json --charts pictures --chart-format png
    """
    if format_name != TERMINAL and format_name not in formats():
        raise UsageError(f"unknown format '{format_name}': choose from {', '.join((TERMINAL, *formats()))}")
    if format_name != TERMINAL:
        formats()[format_name].check()
    pictures.check()
    outputs = Outputs(output or (), formats().values())
    runs = _merge([read_records(path) for path in records])
    if baseline is not None:
        runs = [_compared(run, baseline) for run in runs]
    text = None if format_name == TERMINAL else document(formats()[format_name], runs)
    if into is not None:
        write_whole(into, embedded(into, records[0].stem, document(formats()["markdown"], runs)))
    outputs.write(*runs)
    if pictures.charts is not None:
        from muse_bench.report.charts import records as charts  # altair is slow to import

        pictures.write(*(charts.pictures(run.records) for run in runs))
    if text is not None:
        typer.echo(text, nl=False)
    else:
        _show(runs)
    return ExitCode.OK


def _merge(runs: Sequence[RunFile]) -> list[RunFile]:
    """The runs with those of one environment made one."""
    merged: list[RunFile] = []
    for run in runs:
        for index, earlier in enumerate(merged):
            if earlier.environment == run.environment:
                merged[index] = _joined(earlier, run)
                break
        else:
            merged.append(run)
    return merged


def _joined(first: RunFile, second: RunFile) -> RunFile:
    commands = dict.fromkeys(command for command in (first.command, second.command) if command)
    return dataclasses.replace(first, records=first.records + second.records, command="; ".join(commands) or None)


def _compared(run: RunFile, baseline: str) -> RunFile:
    against = choose_baseline([record.model for record in run.records], baseline)
    return dataclasses.replace(run, records=add_reductions(run.records, against))


def _show(runs: Sequence[RunFile]) -> None:
    screen = console.stdout()
    for index, run in enumerate(runs):
        if index:
            screen.print()
        screen.print(single(run) if len(run.records) == 1 else Comparison(run))
