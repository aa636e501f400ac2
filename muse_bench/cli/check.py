"""`muse-bench check`: the regression gate."""

import os
from pathlib import Path
from typing import Annotated

import typer

from muse_bench.analysis.difference import foreign, match
from muse_bench.analysis.limits import DEFAULT, WHATS, judge_cases, parse_limit
from muse_bench.cli import console
from muse_bench.cli.options import OUTPUT
from muse_bench.cli.outputs import Outputs, check_writable
from muse_bench.cli.saved import read_cases
from muse_bench.errors import ExitCode, UsageError
from muse_bench.record import RunFile, write_whole
from muse_bench.report import Format
from muse_bench.report.gate import (
    Gate,
    cases_text,
    render_benchmark,
    render_csv,
    render_document,
    render_json,
    render_junit,
    sheets,
)
from muse_bench.report.sheet import render_terminal
from muse_bench.report.words import ENDINGS

SUMMARY = "GITHUB_STEP_SUMMARY"
OTHERS = ("gpu", "torch", "allocator", "workspace", "provenance")
FORMATS = (
    Format("markdown", ".md", False, render_document),
    Format("json", ".json", False, render_json),
    Format("csv", ".csv", False, render_csv),
    Format("junit", ".xml", False, render_junit),
)


def check(
    records: Annotated[Path, typer.Argument(metavar="RECORDS", help="A file that --output x.json wrote.")],
    against: Annotated[Path, typer.Option(metavar="BASELINE", help="The record file that they must not exceed.")],
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT:LIMIT",
            help=f"How much may grow: a share, a size or 0. Repeatable. WHAT is one of {', '.join(WHATS)}.",
            show_default=DEFAULT,
        ),
    ] = None,
    save_baseline: Annotated[
        bool, typer.Option("--save-baseline", help="Make the records the baseline; compare nothing.")
    ] = False,
    allow_other: Annotated[
        str | None,
        typer.Option(metavar="A,B", help=f"Compare although these differ: {', '.join(OTHERS)}.", show_default="none"),
    ] = None,
    benchmark: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the figures for github-action-benchmark.", rich_help_panel=OUTPUT),
    ] = None,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the answer here, as .md, .json, .csv or .xml (JUnit). Repeatable.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
) -> int:
    """Fail when memory has grown: records against a baseline, case by case, with what grew and where.

    Exits with 1 when a limit is passed, a case is missing or one that finished
    no longer does. Files of different GPUs, releases of PyTorch, allocator or
    cuBLAS settings are refused, and so is a prediction against a measurement.
    Where GITHUB_STEP_SUMMARY names a file, the tables go there too.

    \b
    Examples:
      muse-bench check vram.json --against baseline.json --save-baseline
      muse-bench check vram.json --against baseline.json
      muse-bench check vram.json --against baseline.json --fail-on peak:2% \\
        --fail-on parameters:0 --fail-on activations_saved:10MiB --output vram.xml
      muse-bench check vram.json --against baseline.json --allow-other torch
    """
    limits = [parse_limit(text) for text in fail_on or [DEFAULT]]
    allowed = _others(allow_other)
    outputs = Outputs(output or (), FORMATS)
    if benchmark is not None:
        check_writable(benchmark)
    run = read_cases(records)
    if save_baseline:
        return _save(run, records, against)
    if not against.exists():
        raise UsageError(f"{against}: there is no such baseline: write it with --save-baseline")
    baseline = read_cases(against)
    matched = match(baseline.records, run.records)
    differing = foreign(baseline, run, matched.pairs)
    for name, (was, now) in differing.items():
        if name not in allowed:
            raise UsageError(
                f"{records}: {name} is {now} here and {was} in {against}: "
                f"save a baseline of this kind, or compare with --allow-other {name}"
            )
    remarks = tuple(f"{name} differs: {was} in the baseline, {now} now" for name, (was, now) in differing.items())
    gate = Gate(baseline, run, judge_cases(matched, limits), remarks)
    if gate.passed and not any(case.outcomes for case in gate.cases):
        raise UsageError(f"no case finished both in {records} and in {against}: there is nothing to compare")
    return _show(gate, outputs, benchmark)


def _show(gate: Gate, outputs: Outputs[Gate], benchmark: Path | None) -> ExitCode:
    console.stdout().print(render_terminal(*sheets(gate)))
    outputs.write(gate)
    if benchmark is not None:
        write_whole(benchmark, render_benchmark(gate.run))
    if summary := os.environ.get(SUMMARY):
        _append(Path(summary), render_document(gate))
    return ExitCode.OK if gate.passed else ExitCode.FAIL


def _save(run: RunFile, records: Path, against: Path) -> ExitCode:
    """Raises: UsageError for records of a case that did not finish: nothing could be held against it."""
    for record in run.records:
        if record.status != "ok":
            ending = ENDINGS[record.status]
            raise UsageError(f"{records}: '{record.model}' {ending}: a baseline holds cases that finished")
    write_whole(against, run.to_json())
    typer.echo(f"{against} is the baseline now: {cases_text(len(run.records))} of {records}")
    return ExitCode.OK


def _others(text: str | None) -> list[str]:
    """The words in 'gpu,torch'. Raises: UsageError for one that is unknown."""
    words = [] if text is None else [word.strip() for word in text.split(",")]
    for word in words:
        if word not in OTHERS:
            raise UsageError(f"--allow-other '{word}' is unknown: choose from {', '.join(OTHERS)}")
    return words


def _append(path: Path, text: str) -> None:
    """Raises: UsageError when the file cannot be written."""
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from error
