"""`muse-bench doctor`: what this machine can measure, why not the rest, and whether the kernels are right on it."""

import dataclasses
import math
from pathlib import Path
from typing import Annotated

import typer

from muse_bench.cli import console
from muse_bench.cli.cases import build_cases
from muse_bench.cli.options import OUTPUT, RUNNING, BudgetOptions, ProtocolOptions, SizeOptions
from muse_bench.cli.outputs import Outputs
from muse_bench.cli.progress import ProgressBar
from muse_bench.doctor.abilities import abilities
from muse_bench.doctor.facts import facts, self_check_fact, summary
from muse_bench.doctor.machine import Examiner, Machine
from muse_bench.doctor.record import Checkup, Fact, KernelOutcome
from muse_bench.doctor.trial import broken, try_main_job
from muse_bench.errors import ExitCode, UsageError
from muse_bench.report import Format
from muse_bench.report.doctor import abilities_sheet, checkup_sheets, facts_sheet, kernels_sheet
from muse_bench.report.sheet import render_markdown, render_terminal

FORMATS: tuple[Format[Checkup], ...] = (
    Format("json", ".json", False, lambda checkup: checkup.to_json()),
    Format("markdown", ".md", True, lambda checkup: render_markdown(*checkup_sheets(checkup))),
)
TRIED = ("baseline", "muse")
SMALL = SizeOptions(vocab=1_000, d_model=64, layers=2, heads=4, seq=64)


def doctor(
    kernels: Annotated[
        bool,
        typer.Option(
            "--kernels/--no-kernels",
            help="Check every kernel against float64, where there is a CUDA GPU with Triton.",
            rich_help_panel=RUNNING,
        ),
    ] = True,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Stop a kernel's check after this.", rich_help_panel=RUNNING)
    ] = 300.0,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print what was found as JSON, and nothing else on stdout.", rich_help_panel=OUTPUT
        ),
    ] = False,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write what was found here, as .json or .md. Repeatable.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
) -> int:
    """Say what this machine can measure, and why not the rest; try the main job; check the kernels.

    Each kernel's outputs and gradients are held against float64: a new GPU or
    Triton can break one silently. Exits with 0 when compare works here, which is
    tried in small: measuring where there is a GPU, predicting where there is none
    or CUDA_VISIBLE_DEVICES="" hides it. Exits with 1 when it does not, when a kernel
    fails, or when something that is installed does not work.

    \b
    Examples:
      muse-bench doctor
      muse-bench doctor --no-kernels
      muse-bench doctor --output doctor.json
      muse-bench doctor --json | jq .sound
    """
    outputs = Outputs(output or (), FORMATS)
    if not 0 < timeout < math.inf:
        raise UsageError(f"--timeout {timeout:g} is not a time: give seconds, more than 0")
    outcomes: list[KernelOutcome] = []
    with Examiner(timeout) as examiner:
        machine = examiner.examine()
        runs = kernels and machine.checks_kernels
        unchecked = () if runs or not kernels else (self_check_fact(machine),)
        job = _try_main_job(machine, timeout)
        known = (*facts(machine), *unchecked, job)
        checkup = Checkup(summary=summary(machine, job), facts=known, abilities=abilities(machine))
        if not as_json:
            console.stdout().print(render_terminal(facts_sheet(checkup), abilities_sheet(checkup)))
        try:
            if runs:
                _check_kernels(examiner, outcomes)
        finally:
            checkup = dataclasses.replace(checkup, kernels=tuple(outcomes))
            outputs.write(checkup)
            _show_rest(checkup, as_json)
    return ExitCode.OK if checkup.sound else ExitCode.FAIL


def _try_main_job(machine: Machine, timeout: float) -> Fact:
    """With one model of plain PyTorch and one of our kernels, as `compare` makes its cases."""
    if machine.worker_failure is not None:
        return broken(machine.worker_failure)
    cases = build_cases(TRIED, SMALL, ProtocolOptions(), BudgetOptions())
    with ProgressBar(len(cases)) as bar:
        return try_main_job(cases, timeout, bar.phase)


def _check_kernels(examiner: Examiner, outcomes: list[KernelOutcome]) -> None:
    """Runs every check; what has finished is in the list also when it is interrupted."""
    plan = examiner.checks()
    with ProgressBar(len(plan)) as bar:
        for operation, dtype in plan:
            bar.say(f"{operation} {dtype}")
            outcomes.append(examiner.check(operation, dtype))
            bar.finished()


def _show_rest(checkup: Checkup, as_json: bool) -> None:
    if as_json:
        typer.echo(checkup.to_json(), nl=False)
    elif checkup.kernels:
        console.stdout().print(render_terminal(kernels_sheet(checkup.kernels)))
