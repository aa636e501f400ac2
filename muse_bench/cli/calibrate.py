"""`muse-bench calibrate`: the calibration matrix, measured and predicted on the GPU at hand."""

import contextlib
import dataclasses
import functools
from collections.abc import Generator, Sequence
from typing import Annotated, Literal

import typer

from muse_bench.calibration.cases import PARTS, build_case
from muse_bench.cli import console
from muse_bench.cli.cases import check_run
from muse_bench.cli.journaled import among, begin, open_journal, run_file, run_one
from muse_bench.cli.options import RUNNING, RunOptions
from muse_bench.cli.outputs import Outputs
from muse_bench.cli.progress import ProgressBar
from muse_bench.cli.run import keep_runs
from muse_bench.config import Case
from muse_bench.errors import ExitCode, UsageError
from muse_bench.execution.at_hand import AT_HAND, choose_gpu, gpu_at_hand
from muse_bench.execution.blank import blank_record
from muse_bench.execution.peers import PeerWorker
from muse_bench.execution.runner import Progress, Runner
from muse_bench.journal import RESUME, Journal
from muse_bench.measure.nvml_device import UnavailableError
from muse_bench.predict.gpus import Gpu
from muse_bench.record import Provenance, Record, RunFile
from muse_bench.report import Format, formats
from muse_bench.report.accuracy import accuracy_sheets, case_name
from muse_bench.report.sheet import render_markdown, render_terminal

MATRIX = "Matrix"
NO_GPU = (
    "calibrate needs a CUDA GPU, and there is none here: `muse-bench accuracy FILE` renders a saved calibration, "
    "and --predict-only --gpu NAME predicts the matrix"
)
TABLES: Format[RunFile] = Format(
    "markdown", ".md", sections=False, render=lambda run: render_markdown(*accuracy_sheets([run]), command=run.command)
)


def calibrate(
    options: RunOptions,
    part: Annotated[
        Literal["development", "held-out", "all"],
        typer.Option(metavar="PART", help="development, held-out or all.", rich_help_panel=MATRIX),
    ] = "all",
    only: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT,TEXT",
            help="The cases with one of these in 'preset|architecture MODEL DTYPE MODE OPTIMIZER'.",
            rich_help_panel=MATRIX,
        ),
    ] = None,
    predict_only: Annotated[
        bool, typer.Option("--predict-only", help="Measure nothing; predict for --gpu.", rich_help_panel=RUNNING)
    ] = False,
    peers: Annotated[
        bool,
        typer.Option("--peers", help="Ask other predictors about the same cases, at the end.", rich_help_panel=RUNNING),
    ] = False,
) -> int:
    """Measure and predict the calibration matrix on this GPU, and show how far the predictions are off.

    The records are saved as cases finish. --predict-only makes new predictions
    to go with saved measurements: `muse-bench accuracy OLD NEW` shows both.
    Exits with 4 when a case could not be measured or predicted.

    \b
    Examples:
      muse-bench calibrate --output calibration.json --output calibration.md
      muse-bench calibrate --part held-out --only gpt --timeout 120
      muse-bench calibrate --predict-only --gpu h200 --output predicted.json
    """
    if options.gpu is not None and not predict_only:
        raise UsageError(f"--gpu {options.gpu} asks for predictions alone: add --predict-only, or leave it out")
    check_run(options)
    if options.devices is not None:
        raise UsageError("--devices is not for calibrate: each case is measured and predicted in turn; leave it out")
    cases = _chosen(part, only)
    gpu = choose_gpu(options.gpu or AT_HAND) if predict_only else _gpu_to_measure()
    outputs = Outputs(options.output or (), (formats()["json"], TABLES))
    with open_journal(outputs, options) as journal:
        run = keep_runs(
            _runs(cases, gpu, options, journal, predict_only=predict_only, peers=peers),
            outputs,
            lambda run: render_terminal(*accuracy_sheets([run])),
            total=len(cases),
            finished=lambda run: sum(record.provenance == "predicted" for record in run.records),
            again=RESUME,
        )
        journal.end()
    return ExitCode.OK if all(record.status == "ok" for record in run.records) else ExitCode.CASE_FAILED


def _chosen(part: str, only: str | None) -> list[Case]:
    """The cases of the matrix that were asked for."""
    rows = [row for name, group in PARTS.items() if part in (name, "all") for row in group]
    wanted = (only or "").replace("_", "-").split(",")
    cases = [case for case in map(build_case, rows) if any(text in _words(case) for text in wanted)]
    if not cases:
        raise UsageError(f"--only '{only}' is in no case of --part {part}: try a model, such as gpt2, or a mode")
    return cases


def _words(case: Case) -> str:
    """What `--only` looks in."""
    record = blank_record(case, "predicted", None)
    kind = "architecture" if case.config is None else "preset"
    return " ".join(filter(None, (kind, case_name(record), record.mode, record.optimizer)))


def _gpu_to_measure() -> Gpu:
    try:
        return gpu_at_hand()
    except UnavailableError as error:
        raise UsageError(NO_GPU) from error


def _runs(
    cases: Sequence[Case], gpu: Gpu, options: RunOptions, journal: Journal, *, predict_only: bool, peers: bool
) -> Generator[RunFile]:
    """The run so far, after each case; the other predictors' answers come when every case is done."""
    records: list[Record] = []
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(ProgressBar(len(cases) * (1 + peers)))
        runners: dict[Provenance, Runner] = {}
        start = functools.partial(
            Runner,
            explain=False,
            timeout_seconds=options.timeout,
            retries=options.retries,
            waits=options.wait,
            on_notice=console.complain,
            on_progress=bar.phase,
        )
        if not predict_only:
            measurer = start("auto", preload=("transformers",))
            runners["measured"] = stack.enter_context(measurer)
            if measurer.backend != "cuda":
                raise UsageError(NO_GPU)
        runners["predicted"] = stack.enter_context(start("predict", gpu=gpu.name))
        first = next(iter(runners.values()))
        begin(journal, first, among(cases))
        for case in cases:
            records += [_record(runner, case, provenance, gpu, journal) for provenance, runner in runners.items()]
            bar.finished()
            yield run_file(journal, first, records)
        if peers:
            asker = stack.enter_context(PeerWorker(options.timeout))
            for index, case in enumerate(cases):
                place = (index + 1) * len(runners) - 1

                def say(phase: str, index: int = index, case: Case = case) -> None:
                    bar.phase(Progress(index, len(cases), case, phase))

                if not records[place].peers:  # by the output that the run went on with
                    records[place] = asker.ask(records[place], case, say)
                bar.finished()
                yield run_file(journal, first, records)


def _record(runner: Runner, case: Case, provenance: Provenance, gpu: Gpu, journal: Journal) -> Record:
    """The case's record; one that the runner refuses is skipped, so that the others still run."""
    try:
        return run_one(runner, case, journal)
    except UsageError as error:
        return dataclasses.replace(blank_record(case, provenance, gpu.title), status="skipped", reason=str(error))
