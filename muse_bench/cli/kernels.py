"""`muse-bench kernels`: the speed and memory of each kernel, beside its peers and the card's own limit."""

import collections
import contextlib
import math
import shlex
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from muse_bench.cli import console
from muse_bench.cli.charts import ChartOptions
from muse_bench.cli.options import RUNNING, Output, Wait
from muse_bench.cli.outputs import Outputs
from muse_bench.cli.progress import ProgressBar
from muse_bench.cli.run import keep_runs
from muse_bench.errors import ExitCode, UsageError
from muse_bench.execution.gpu_lock import taken_gpu
from muse_bench.kernel_bench import benchmarks
from muse_bench.kernel_bench.benchmark import OURS
from muse_bench.kernel_bench.record import KernelRun, read_kernel_file
from muse_bench.kernel_bench.runner import KernelRunner, Planned
from muse_bench.report import Format, html
from muse_bench.report.charts.picture import Picture
from muse_bench.report.kernels import kernel_sheets, render_csv
from muse_bench.report.sheet import render_markdown, render_terminal


def _page(run: KernelRun) -> str:
    facts = html.origin(run.environment)
    return html.render_sheets("Speed and memory of the kernels", facts, kernel_sheets(run), _pictures(run), run.command)


def _pictures(run: KernelRun) -> Sequence[Picture]:
    from muse_bench.report.charts import kernels as charts  # altair is slow to import

    return charts.pictures(run)


FORMATS: tuple[Format[KernelRun], ...] = (
    Format("json", ".json", False, lambda run: run.to_json()),
    Format("csv", ".csv", False, render_csv),
    Format("markdown", ".md", True, lambda run: render_markdown(*kernel_sheets(run), command=run.command)),
    Format("html", html.SUFFIX, False, _page, html.check),
)


def kernels(
    charts: ChartOptions,
    only: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="The cases with TEXT in 'KERNEL CASE'.", rich_help_panel=RUNNING),
    ] = None,
    slow: Annotated[
        bool,
        typer.Option("--slow", help="Also peers that first build or tune for minutes.", rich_help_panel=RUNNING),
    ] = False,
    tiny: Annotated[
        bool,
        typer.Option("--tiny", help="Tiny sizes, to see that everything runs.", rich_help_panel=RUNNING),
    ] = False,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Stop an implementation after this.", rich_help_panel=RUNNING)
    ] = 300.0,
    wait: Wait = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the .json output: measure what it does not hold.", rich_help_panel=RUNNING
        ),
    ] = False,
    saved: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="FILE", help="Show saved runs; measure nothing. Repeatable."),
    ] = None,
    output: Output = None,
) -> int:
    """Measure each kernel beside its peers and the limit that the card's own rates set.

    Forward, and forward and backward; memory beyond the inputs; goals met and
    missed. Each kernel runs in a process of its own, and results are saved as
    they come. Exits with 4 when one of our own kernels could not be measured.

    \b
    Examples:
      muse-bench kernels --output kernels.json --output kernels.md
      muse-bench kernels --only rms_norm
      muse-bench kernels --output kernels.json --resume
      muse-bench kernels --from kernels.json
    """
    charts.check()
    outputs = Outputs(output or (), FORMATS)
    if saved:
        if only is not None or slow or tiny or resume:
            raise UsageError("--from shows saved runs as they are: leave out --only, --slow, --tiny and --resume")
        return _show([read_kernel_file(path) for path in saved], outputs, charts)
    if not 0 < timeout < math.inf:
        raise UsageError(f"--timeout {timeout:g} is not a time: give seconds, more than 0")
    plan = _chosen(only, tiny)
    earlier = _earlier(outputs) if resume else None
    run = keep_runs(
        _runs(plan, slow, timeout, wait, earlier),
        outputs,
        lambda run: render_terminal(*kernel_sheets(run)),
        total=len(plan),
        finished=lambda run: _complete(plan, run),
        save=outputs.save,
        again="--resume",
    )
    charts.draw(_pictures, run)
    ours = [row for row in run.rows if row.contender == OURS]
    return ExitCode.OK if all(row.status == "ok" for row in ours) else ExitCode.CASE_FAILED


def _show(runs: Sequence[KernelRun], outputs: Outputs[KernelRun], charts: ChartOptions) -> int:
    outputs.write(*runs)
    charts.draw(_pictures, *runs)
    for run in runs:
        console.stdout().print(render_terminal(*kernel_sheets(run)))
    return ExitCode.OK


def _chosen(only: str | None, tiny: bool) -> list[Planned]:
    """The cases that were asked for. Raises: UsageError when there is none."""
    every = [
        Planned(name, benchmark, index, tiny)
        for name, benchmark in benchmarks().items()
        for index in range(len(benchmark.tiny if tiny else benchmark.cases))
    ]
    chosen = [one for one in every if (only or "").replace("-", "_") in _words(one)]
    if not chosen:
        raise UsageError(f"--only '{only}' is in no case: the kernels are {', '.join(benchmarks())}")
    return chosen


def _words(planned: Planned) -> str:
    """What `--only` looks in."""
    return f"{planned.kernel} {planned.sizes.label}".replace("-", "_")


def _complete(plan: Sequence[Planned], run: KernelRun) -> int:
    """How many cases have a row for everyone who takes part."""
    rows = collections.Counter((row.kernel, row.case) for row in run.rows)
    return sum(rows[one.kernel, one.sizes.label] == len(one.contenders) for one in plan)


def _earlier(outputs: Outputs[KernelRun]) -> KernelRun | None:
    """What the .json output holds, if it is there. Raises: UsageError when none is named."""
    if outputs.records is None:
        raise UsageError("--resume goes on with what a .json output holds: add --output NAME.json")
    return read_kernel_file(outputs.records) if outputs.records.exists() else None


def _runs(
    plan: Sequence[Planned], slow: bool, timeout: float, wait: bool, earlier: KernelRun | None
) -> Generator[KernelRun]:
    """The run so far, after each implementation."""
    command = shlex.join(["muse-bench", *sys.argv[1:]])
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(ProgressBar(len(plan)))
        stack.enter_context(taken_gpu(None, waits=wait, say=console.complain))
        runner = stack.enter_context(
            KernelRunner(timeout_seconds=timeout, slow=slow, say=bar.say, case_finished=bar.finished)
        )
        if earlier is not None:
            runner.go_on_with(earlier)
        for rows in runner.run(plan):
            yield KernelRun(environment=runner.environment, rates=runner.rates, rows=rows, command=command)
