"""`muse-bench frontier`: the largest batch, sequence or model that fits a card."""

import contextlib
import dataclasses
import functools
from collections.abc import Generator, Sequence
from typing import Annotated

import typer

from muse_bench.analysis.edge_search import Search
from muse_bench.analysis.frontier import Budget, Check, Edge, Frontier
from muse_bench.cli import console
from muse_bench.cli.axes import Axis, axis_of, parse_vary
from muse_bench.cli.cases import build_cases, check_run, split_models
from muse_bench.cli.charts import ChartOptions
from muse_bench.cli.journaled import begin, open_journal, run_file, run_one
from muse_bench.cli.options import (
    DEFAULT_MODELS,
    MODEL,
    RUNNING,
    BudgetOptions,
    Models,
    ProtocolOptions,
    RunOptions,
    SizeOptions,
)
from muse_bench.cli.outputs import Outputs
from muse_bench.cli.progress import ProgressBar
from muse_bench.cli.run import keep_runs
from muse_bench.config import Case
from muse_bench.errors import ExitCode, UsageError
from muse_bench.execution.at_hand import AT_HAND
from muse_bench.execution.runner import Runner
from muse_bench.journal import RESUME, Journal
from muse_bench.record import Record, RunFile
from muse_bench.report import Format, formats, html
from muse_bench.report.charts.picture import Picture
from muse_bench.report.frontier import sheets
from muse_bench.report.sheet import render_markdown, render_terminal
from muse_bench.units import MIB, parse_bytes, parse_percent

NO_GPU = "--check measures the edges on a CUDA GPU, and there is none here: leave it out"


def frontier(
    sizes: SizeOptions,
    protocol: ProtocolOptions,
    options: RunOptions,
    charts: ChartOptions,
    models: Models = DEFAULT_MODELS,
    vary: Annotated[
        str, typer.Option(metavar="A,B", help="What grows: batch, seq, layers, width, params.", rich_help_panel=MODEL)
    ] = "batch",
    budgets: Annotated[
        str, typer.Option(metavar="SIZE,SIZE", help="Memory of the cards that must do.", rich_help_panel=RUNNING)
    ] = "8GiB,12GiB,16GiB,24GiB",
    headroom: Annotated[
        str, typer.Option(metavar="SHARE", help="Share of each budget to leave free.", rich_help_panel=RUNNING)
    ] = "10%",
    host_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Host memory that must do too, for what a model keeps there.",
            show_default="any",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Measure at each edge and one step beyond it, on the CUDA GPU here.",
            rich_help_panel=RUNNING,
        ),
    ] = False,
) -> int:
    """Find the largest batch, sequence or model that fits a card of 8, 12, 16 and 24 GiB.

    Bisects on predictions, so it needs no GPU: a value fits when its verdict is
    PASS. width keeps the size of a head and the ratio of width to depth; params
    chooses width, depth and heads, for numbers of two digits such as 7.1 billion.
    With --host-memory what a model keeps there has to fit as well. Exits with 1
    when a measured edge did not hold, 4 when a case crashed.

    \b
    Examples:
      muse-bench frontier --models tuned,ultra
      muse-bench frontier --vary seq,layers --budgets 8GiB --gpu rtx-3070 --output frontier.md
      muse-bench frontier --models tuned,muse --vary params --host-memory 64GiB
    """
    if check and options.gpu is not None:
        raise UsageError(f"--check measures on the GPU here, and --gpu {options.gpu} names one: leave one of them out")
    check_run(options)
    if options.devices is not None:
        raise UsageError("--devices is not for frontier: its next case depends on the last; leave it out")
    charts.check()
    limits = _parse_budgets(budgets, headroom, host_memory)
    budget = BudgetOptions(budget=str(limits[-1].budget_bytes), headroom=headroom, host_memory=host_memory)
    lines = [
        Line(axis_of(word, sizes, case), case.model, sizes, protocol, budget)
        for word in parse_vary(vary)
        for case in build_cases(split_models(models), sizes, protocol, budget)
    ]
    found: Found = {}

    def pictures(_: RunFile) -> Sequence[Picture]:
        from muse_bench.report.charts import frontier as drawing  # altair is slow to import

        return drawing.pictures([*found.values()])

    def page(run: RunFile) -> str:
        drawn = sheets(run, [*found.values()])
        return html.render_sheets("What fits", html.origin(run.environment), drawn, pictures(run), run.command)

    ours: tuple[Format[RunFile], ...] = (
        Format(
            "markdown", ".md", True, lambda run: render_markdown(*sheets(run, [*found.values()]), command=run.command)
        ),
        Format("html", html.SUFFIX, False, page, html.check),
    )
    outputs = Outputs(options.output or (), [*({**formats(), **{one.name: one for one in ours}}).values()])
    with open_journal(outputs, options) as journal:
        run = keep_runs(
            _runs(found, lines, limits, options, check, journal),
            outputs,
            lambda run: render_terminal(*sheets(run, [*found.values()])),
            total=len(lines) * len(limits),
            finished=lambda _: len(_edges_in(found)),
            again=RESUME,
        )
        journal.end()
    charts.draw(pictures, run)
    return _status(found)


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """One model and the size of it that grows."""

    axis: Axis
    model: str
    sizes: SizeOptions
    protocol: ProtocolOptions
    budget: BudgetOptions

    def case(self, count: int) -> Case:
        """The case at this many steps of what grows."""
        (case,) = build_cases([self.model], self.axis.resize(self.sizes, count), self.protocol, self.budget)
        return case

    def nothing_found(self) -> Frontier:
        """The frontier before its first edge."""
        axis = self.axis
        dtype = self.case(max(axis.start, axis.least)).dtype
        return Frontier(
            model=self.model, dtype=dtype, size=axis.size, unit=axis.unit, tolerance=axis.tolerance, digits=axis.digits
        )


Found = dict[Line, Frontier]


def _parse_budgets(text: str, headroom: str, host_memory: str | None) -> list[Budget]:
    """Every size in '8GiB,12GiB' once, the smallest first.

    Raises: UsageError for what is no size, and for one that no card has: a number without its unit.
    """
    share, sizes = parse_percent(headroom), {parse_bytes(part): part.strip() for part in text.split(",")}
    for size, part in sizes.items():
        if size < MIB:
            raise UsageError(f"--budgets '{part}' is {size} bytes, less than any card has: write a unit, such as 8GiB")
    host_bytes = None if host_memory is None else parse_bytes(host_memory)
    return [Budget(budget_bytes=size, headroom=share, host_bytes=host_bytes) for size in sorted(sizes)]


def _runs(
    found: Found, lines: Sequence[Line], budgets: Sequence[Budget], options: RunOptions, check: bool, journal: Journal
) -> Generator[RunFile]:
    """The records so far, after each edge; `found` holds the frontiers that they belong to."""
    models = {line.model for line in lines}
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(ProgressBar(len(lines) * len(budgets)))
        start = functools.partial(
            Runner,
            workspace=lines[0].protocol.workspace,
            explain=False,
            timeout_seconds=options.timeout,
            retries=options.retries,
            waits=options.wait,
            on_notice=console.complain,
            on_progress=lambda progress: bar.say(f"{_name(progress.case)}: {progress.phase}"),
        )
        measuring = stack.enter_context(start("auto")) if check else None
        if measuring is not None and measuring.backend != "cuda":
            raise UsageError(NO_GPU)
        predicting = stack.enter_context(start("predict", gpu=AT_HAND if check else options.gpu))
        here = measuring or predicting
        begin(journal, here, lambda record: record.model in models)
        for line in lines:
            search = Search(
                functools.partial(_run, predicting, journal, line),
                start=line.axis.start,
                largest=line.axis.largest,
                leap=line.axis.leap,
                tolerance=line.axis.tolerance,
                least=line.axis.least,
                digits=line.axis.digits,
            )
            for budget in budgets:
                edge = search.edge(budget)
                checks = (_check(edge, line, measuring, journal),) if measuring is not None and edge.count else ()
                found[line] = found.get(line, line.nothing_found()).grown(edge, *checks)
                bar.finished()
                records = tuple(record for frontier in found.values() for record in frontier.records())
                yield run_file(journal, here, records)


def _run(runner: Runner, journal: Journal, line: Line, count: int) -> Record:
    return run_one(runner, line.case(count), journal)


def _check(edge: Edge, line: Line, runner: Runner, journal: Journal) -> Check:
    """Measures at the edge, and at the next count that is predicted not to fit."""
    at_edge = edge.budget.judge(_run(runner, journal, line, edge.count))
    beyond = None if edge.beyond is None else edge.budget.judge(_run(runner, journal, line, edge.beyond))
    return Check(edge=edge, at_edge=at_edge, beyond=beyond)


def _name(case: Case) -> str:
    """The case and those of its sizes that may grow."""
    shape = "" if case.config is None else f", {case.config.n_layers} layers of {case.config.d_model}"
    return f"{case.model}, batch {case.batch}, seq {case.seq}{shape}"


def _edges_in(found: Found) -> list[Edge]:
    return [edge for frontier in found.values() for edge in frontier.edges]


def _status(found: Found) -> ExitCode:
    """1 when an edge did not hold, else 4 when a case crashed, else 0."""
    checks = [check for frontier in found.values() for check in frontier.checks]
    if any(check.holds is False for check in checks):
        return ExitCode.FAIL
    crashed = any(record.status == "crashed" for check in checks for record in (check.at_edge, check.beyond) if record)
    return ExitCode.CASE_FAILED if crashed or any(edge.reason for edge in _edges_in(found)) else ExitCode.OK
