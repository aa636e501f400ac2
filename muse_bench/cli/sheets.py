"""Commands whose records become sheets: the formats of their outputs, saved runs, and the quality beside them."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from muse_bench.analysis.comparison import add_reductions
from muse_bench.analysis.verdict import judge
from muse_bench.cli import console
from muse_bench.cli.charts import NO_CHARTS, ChartOptions, Draws
from muse_bench.cli.options import OUTPUT, Backend, RunOptions
from muse_bench.cli.outputs import Outputs
from muse_bench.cli.run import case_status, run_cases
from muse_bench.cli.saved import read_records
from muse_bench.config import Case
from muse_bench.errors import ExitCode, UsageError
from muse_bench.models.variants import learns_as
from muse_bench.quality.record import QualityRun, read_quality_file
from muse_bench.record import Record, RunFile, join_commands, join_environments
from muse_bench.report import Format, formats, html
from muse_bench.report.charts.picture import Picture
from muse_bench.report.sheet import Sheet, render_markdown, render_terminal

Draw = Callable[[RunFile], Sequence[Sheet]]
Quality = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE", help="Show losses beside it, from what quality has saved. Repeatable.", rich_help_panel=OUTPUT
    ),
]
Names = Annotated[bool, typer.Option("--names", help="Print the models' names, for quality --models; run nothing.")]


def distinct(models: Sequence[str]) -> str:
    """The names with commas between, the first of those that learn the same; the last name stands for its own kind."""
    kinds = {learns_as(name): name for name in reversed(models)} | {learns_as(models[-1]): models[-1]}
    return ",".join(name for name in models if kinds[learns_as(name)] == name)


def no_pictures(_: RunFile) -> Sequence[Picture]:
    """What a command shows that has no chart."""
    return ()


def sheet_formats(
    draw: Draw, beside: Sequence[QualityRun] = (), pictures: Draws = no_pictures
) -> list[Format[RunFile]]:
    """The formats of a run, with the sheets for Markdown and HTML, and the pictures for HTML.

    `beside` are the runs of quality that the sheets show too.
    """

    def commands(run: RunFile) -> str | None:
        return join_commands([run.command, *(one.command for one in beside)])

    def markdown(run: RunFile) -> str:
        return render_markdown(*draw(run), command=commands(run))

    def page(run: RunFile) -> str:
        sheets = draw(run)
        return html.render_sheets(sheets[0].title, html.facts(run), sheets, pictures(run), commands(run))

    ours: tuple[Format[RunFile], ...] = (
        Format("markdown", ".md", True, markdown),
        Format("html", html.SUFFIX, False, page, html.check),
    )
    return [*{**formats(), **{one.name: one for one in ours}}.values()]


def show_saved(
    paths: Sequence[Path],
    draw: Draw,
    output: Sequence[Path] | None,
    beside: Sequence[QualityRun] = (),
    pictures: Draws = no_pictures,
    charts: ChartOptions = NO_CHARTS,
) -> ExitCode:
    """Shows and writes saved runs as one. Raises: UsageError when one cannot be read, holds nothing or differs."""
    charts.check()
    outputs = Outputs(output or (), sheet_formats(draw, beside, pictures))
    run = joined([read_records(path) for path in paths], paths)
    outputs.write(run)
    charts.draw(pictures, run)
    console.stdout().print(render_terminal(*draw(run)))
    return case_status(run)


def joined(runs: Sequence[RunFile], paths: Sequence[Path]) -> RunFile:
    """The runs as one, for those of one machine and release. Raises: UsageError for others."""
    first = runs[0]
    for run, path in zip(runs, paths, strict=True):
        if _source(run) != _source(first):
            raise UsageError(f"{path}: another GPU, PyTorch or backend than in {paths[0]}: show each by itself")
    records = tuple(record for run in runs for record in run.records)
    environment = join_environments([run.environment for run in runs])
    command = join_commands(run.command for run in runs)
    return dataclasses.replace(first, environment=environment, records=records, command=command)


def _source(run: RunFile) -> tuple[str | None, str | None, set[str]]:
    return run.environment.gpu, run.environment.torch, {record.provenance for record in run.records}


def run_shown(
    cases: Sequence[Case],
    backend: Backend,
    options: RunOptions,
    draw: Draw,
    baseline: str | None = None,
    pictures: Draws = no_pictures,
    charts: ChartOptions = NO_CHARTS,
) -> ExitCode:
    """Runs the cases, with reductions against the baseline if there is one, and shows and writes their sheets."""
    charts.check()

    def finish(records: Sequence[Record]) -> tuple[Record, ...]:
        compared = records if baseline is None else add_reductions(records, baseline)
        return tuple(map(judge, compared))

    run = run_cases(
        cases,
        backend,
        options,
        finish=finish,
        show=lambda run: render_terminal(*draw(run)),
        written=sheet_formats(draw, pictures=pictures),
    )
    charts.draw(pictures, run)
    return case_status(run)


def read_quality(paths: Sequence[Path] | None) -> list[QualityRun]:
    """The runs of the files. Raises: UsageError for one that quality has not written."""
    return [read_quality_file(path) for path in paths or ()]
