"""`muse-bench doctor`: what this machine can measure, why not the rest, and whether the kernels are right on it."""

import dataclasses
import math
from pathlib import Path
from typing import Annotated

import typer

from muse_bench.cli import console
from muse_bench.cli.options import OUTPUT, RUNNING
from muse_bench.cli.outputs import Outputs
from muse_bench.cli.progress import ProgressBar
from muse_bench.doctor.facts import facts, self_check_fact, summary
from muse_bench.doctor.machine import Examiner
from muse_bench.doctor.record import Checkup, KernelOutcome
from muse_bench.errors import ExitCode, UsageError
from muse_bench.report import Format
from muse_bench.report.doctor import checkup_sheets, facts_sheet, kernels_sheet
from muse_bench.report.sheet import render_markdown, render_terminal

FORMATS: tuple[Format[Checkup], ...] = (
    Format("json", ".json", False, lambda checkup: checkup.to_json()),
    Format("markdown", ".md", True, lambda checkup: render_markdown(*checkup_sheets(checkup))),
)


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
    """Say what this machine can measure, and why not the rest; check the kernels.

    Each kernel's outputs and gradients are held against float64: a new GPU or
    Triton can break one silently. Exits with 1 when a kernel fails, or when
    something that is installed does not work; a machine with no GPU is fine.

    \b
    Examples:
      muse-bench doctor
      muse-bench doctor --no-kernels
      muse-bench doctor --output doctor.json
    """
    outputs = Outputs(output or (), FORMATS)
    if not 0 < timeout < math.inf:
        raise UsageError(f"--timeout {timeout:g} is not a time: give seconds, more than 0")
    with Examiner(timeout) as examiner:
        machine = examiner.examine()
        runs = kernels and machine.checks_kernels
        known = facts(machine) if runs or not kernels else (*facts(machine), self_check_fact(machine))
        checkup = Checkup(summary=summary(machine), facts=known)
        console.stdout().print(render_terminal(facts_sheet(checkup)))
        if runs:
            return _check_kernels(checkup, examiner, outputs)
    outputs.write(checkup)
    return _status(checkup)


def _check_kernels(checkup: Checkup, examiner: Examiner, outputs: Outputs[Checkup]) -> ExitCode:
    """Runs every check; what has finished is shown and written also when it is interrupted."""
    plan = examiner.checks()
    outcomes: list[KernelOutcome] = []
    try:
        with ProgressBar(len(plan)) as bar:
            for operation, dtype in plan:
                bar.say(f"{operation} {dtype}")
                outcomes.append(examiner.check(operation, dtype))
                bar.finished()
    finally:
        checkup = dataclasses.replace(checkup, kernels=tuple(outcomes))
        outputs.write(checkup)
        if outcomes:
            console.stdout().print(render_terminal(kernels_sheet(outcomes)))
    return _status(checkup)


def _status(checkup: Checkup) -> ExitCode:
    return ExitCode.OK if checkup.sound else ExitCode.FAIL
