"""`muse-bench claims`: every figure of the two earlier reports, claimed and found side by side."""

import dataclasses
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

import muse_bench
from muse_bench.analysis.claims.answers import answer_all, questions_of, untrained
from muse_bench.analysis.claims.claim import Claim, choose_claims, read_claims
from muse_bench.analysis.claims.evidence import Evidence
from muse_bench.analysis.claims.question import Question
from muse_bench.analysis.claims.rule import Answer
from muse_bench.analysis.floor import floor_of
from muse_bench.analysis.verdict import judge
from muse_bench.cli import console
from muse_bench.cli.cases import build_cases
from muse_bench.cli.evidence import TRAINED, read_saved, train_missing
from muse_bench.cli.floor import reported_cases
from muse_bench.cli.options import OUTPUT, RUNNING, Backend, BudgetOptions, ProtocolOptions, RunOptions, SizeOptions
from muse_bench.cli.outputs import Outputs, embedded
from muse_bench.cli.run import case_status, run_cases
from muse_bench.cli.training import TrainingOptions
from muse_bench.config import Backend as BackendName
from muse_bench.config import Case
from muse_bench.errors import ExitCode, UsageError
from muse_bench.execution.at_hand import gpu_at_hand
from muse_bench.execution.weighing import weigh_cases
from muse_bench.measure.nvml_device import UnavailableError
from muse_bench.predict.gpus import cublas_workspace_bytes
from muse_bench.record import Environment, Record, RunFile, read_run_file, write_whole
from muse_bench.report import Format, html
from muse_bench.report.claims import headline, render_csv, render_json, sheets
from muse_bench.report.sheet import render_markdown, render_terminal

REPORTS_GPU = "rtx-3080"  # whose cuBLAS workspaces are those in the reports' figures
TITLE = "The claims of two reports"
HEADLINE = ["F01", "F02", "F16", "F19", "F33", "F39", "F48", "F57", "F68", "F70", "E03", "E20", "E35", "E36", "E37"]


def claims(
    options: RunOptions,
    only: Annotated[str | None, typer.Option(metavar="F02,E*", help="These claims alone.", show_default="all")] = None,
    records: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Saved measurements and trainings: a .json file, or a folder of them. Repeatable.",
            show_default="reports, if it is there",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    run_training: Annotated[
        bool,
        typer.Option(
            "--run-training",
            help=f"Train models whose losses are not saved; the runs go to {TRAINED}.",
            rich_help_panel=RUNNING,
        ),
    ] = False,
    training_tokens: Annotated[
        str,
        typer.Option(metavar="N", help="Tokens to train on, with --run-training.", rich_help_panel=RUNNING),
    ] = TrainingOptions.tokens,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 when a claim is not reproduced.", rich_help_panel=RUNNING)
    ] = False,
    saved: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Show saved claims, settled anew; run nothing.")
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Put the headline into this file, between its markers.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    backend: Backend = "auto",
) -> int:
    """Settle every figure of the two earlier reports, and show what is reached instead.

    Each claim stands beside what is found under the reports' own protocol,
    under a sound one, and what muse or streamed reaches, with a verdict and its
    reason. Memory is measured on a GPU, or predicted: without one for an RTX
    3080, whose workspaces are the reports'. Times, quality and the 100B model
    come from saved records. Exits with 1 under --strict when a claim is not
    reproduced, and with 4 when a case ran out of memory or crashed.

    \\b
    Examples:
      muse-bench claims
      muse-bench claims --only F02,E* --output claims.md --output claims.csv
      muse-bench claims --records reports/h200 --strict
      muse-bench claims --from claims.json --into README.md
    """
    chosen = choose_claims(read_claims(), only)
    measured, trained = read_saved(records)
    floors = tuple(map(floor_of, reported_cases(), weigh_cases(reported_cases())))

    def answered(run: RunFile, some: Sequence[Claim] = chosen) -> list[Answer]:
        evidence = Evidence(run, measured, trained, (floors[0], floors[1]), _workspace_bytes(run.environment))
        return answer_all(some, evidence)

    def markdown(run: RunFile) -> str:
        return render_markdown(*sheets(answered(run), run, wide=True), command=run.command)

    def page(run: RunFile) -> str:
        facts = html.facts(run) if run.records else ()
        return html.render_sheets(TITLE, facts, sheets(answered(run), run, wide=True), (), run.command)

    formats: list[Format[RunFile]] = [
        Format("markdown", ".md", True, markdown),
        Format("csv", ".csv", False, lambda run: render_csv(answered(run))),
        Format("html", html.SUFFIX, False, page, html.check),
        Format("json", ".json", False, lambda run: render_json(answered(run), run)),
    ]
    Outputs(options.output or (), formats)  # refuses what cannot be written before anything is trained or run
    if into is not None:
        embedded(into, "claims", "")
    if run_training:
        missing = untrained(chosen, Evidence(run=_empty(), trained=trained))
        trained = (*trained, *train_missing(missing, training_tokens))

    def show(run: RunFile) -> RenderableType:
        return render_terminal(*sheets(answered(run), run, wide=False))

    if saved is not None:
        run = read_run_file(saved)
        Outputs(options.output or (), formats).write(run)
        console.stdout().print(show(run))
    else:
        run = _run(chosen, backend, options, show, formats)
    if into is not None:
        most = headline(answered(run, read_claims()), HEADLINE, run)
        write_whole(into, embedded(into, "claims", render_markdown(*most, command=run.command)))
    missed = any(one.verdict == "not reproduced" for one in answered(run))
    return ExitCode.FAIL if strict and missed else case_status(run)


def _run(
    chosen: Sequence[Claim],
    backend: BackendName,
    options: RunOptions,
    show: Callable[[RunFile], RenderableType],
    formats: Sequence[Format[RunFile]],
) -> RunFile:
    """The cases that the claims need, run, shown and written."""
    cases = [_case(question) for question in questions_of(chosen)]
    if not cases:
        run = _empty()
        Outputs(options.output or (), formats).write(run)
        console.stdout().print(show(run))
        return run
    named = dataclasses.replace(options, gpu=_gpu(backend, options.gpu))
    return run_cases(cases, backend, named, finish=_judged, show=show, written=formats)


def _judged(records: Sequence[Record]) -> tuple[Record, ...]:
    """The records with their verdicts, and without timelines, which no claim is about."""
    return tuple(dataclasses.replace(judge(record), timeline=()) for record in records)


def _gpu(backend: BackendName, asked: str | None) -> str | None:
    """The GPU to predict for: the one asked for, or the reports' where nothing can be measured; None to measure."""
    if asked is not None or backend == "cuda":
        return asked
    try:
        gpu_at_hand()
    except (UnavailableError, UsageError):
        return REPORTS_GPU
    return REPORTS_GPU if backend == "predict" else None


def _case(question: Question) -> Case:
    sizes = question.sizes
    scaled = SizeOptions(
        vocab=sizes.vocab_size,
        d_model=sizes.d_model,
        layers=sizes.n_layers,
        heads=sizes.n_heads,
        seq=sizes.seq_len,
        batch=question.batch,
    )
    protocol = ProtocolOptions(
        mode=question.mode,
        logits=question.logits,
        optimizer=question.optimizer,
        micro_batch=question.micro_batch,
    )
    (case,) = build_cases([question.model], scaled, protocol, BudgetOptions())
    return case


def _empty() -> RunFile:
    command = shlex.join(["muse-bench", *sys.argv[1:]])
    return RunFile(environment=Environment(muse_bench=muse_bench.__version__), records=(), command=command)


def _workspace_bytes(environment: Environment) -> int:
    """What a handle of cuBLAS holds on the GPU of a run."""
    major, _, minor = (environment.compute_capability or "8.6").partition(".")
    return cublas_workspace_bytes((int(major), int(minor)), None)
