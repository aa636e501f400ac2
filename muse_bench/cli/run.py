"""Runs cases and shows their records: what every command that measures or predicts has in common."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path

from rich.console import RenderableType

from muse_bench.analysis.host_fit import HostBudget
from muse_bench.cli import console
from muse_bench.cli.cases import check_run
from muse_bench.cli.journaled import AnyRunner, among, begin, command_line, open_journal, run_file, run_journaled
from muse_bench.cli.options import ProofOptions, RunOptions
from muse_bench.cli.outputs import Outputs, check_writable
from muse_bench.cli.progress import ProgressBar
from muse_bench.cli.signals import Stopped
from muse_bench.config import Backend, Case
from muse_bench.errors import ExitCode, UsageError
from muse_bench.execution.at_hand import choose_gpu
from muse_bench.execution.devices import chosen_devices
from muse_bench.execution.runner import Runner
from muse_bench.execution.side_by_side import SideBySide
from muse_bench.journal import RESUME, Journal
from muse_bench.record import Record, RunFile
from muse_bench.report import Format, Run, formats
from muse_bench.report.words import NO_GPU
from muse_bench.streaming.peer import check_accelerate

NO_PROOFS = ProofOptions()
Finish = Callable[[Sequence[Record]], tuple[Record, ...]]


def run_cases(
    cases: Sequence[Case],
    backend: Backend,
    options: RunOptions,
    *,
    finish: Finish,
    show: Callable[[RunFile], RenderableType],
    proofs: ProofOptions = NO_PROOFS,
    caps: bool = False,
    snapshot: Path | None = None,
    written: Iterable[Format[RunFile]] | None = None,
) -> RunFile:
    """Runs the cases, saves each as it finishes, then shows them all and writes the other outputs.

    `finish` adds what takes all records so far: reductions and verdicts. `written` are the formats of the outputs, all
    that there are unless told. `caps` and `snapshot` are the Runner's. What has finished is shown and
    written also when the run is interrupted or a case turns out to be impossible; the exception goes on after that.
    Raises: UsageError for a wrong option, before anything runs and with nothing written.
    """
    _check_gpu(backend, options.gpu)
    if options.devices is not None:
        _check_devices(cases, backend, options.gpu, caps)
    if proofs.prove and (backend == "predict" or options.gpu is not None):
        raise UsageError("--prove runs the case on a CUDA GPU: leave out --gpu and --backend predict, or --prove")
    if snapshot is not None:
        if backend == "predict" or options.gpu is not None:
            raise UsageError("--snapshot records a run on a CUDA GPU: leave out --gpu and --backend predict")
        check_writable(snapshot)
    check_run(options)
    outputs = Outputs(options.output or (), formats().values() if written is None else written)
    finish = _within_host_memory(finish, cases[0].host_memory_bytes)
    with open_journal(outputs, options) as journal:
        run = keep_runs(
            _runs(cases, backend, options, proofs, caps, snapshot, finish, journal),
            outputs,
            show,
            total=len(cases),
            finished=lambda run: len(run.records),
            again=RESUME,
        )
        journal.end()
    return run


def keep_runs(
    runs: Generator[Run],
    outputs: Outputs[Run],
    show: Callable[[Run], RenderableType],
    *,
    total: int,
    finished: Callable[[Run], int],
    save: Callable[[Run], None] = lambda _: None,
    again: str | None = None,
) -> Run:
    """Runs to the end, shows and writes what there is then, also when it breaks off.

    `finished` says how many cases a run holds, of `total`. `save` is called each time that the run has grown. `again`
    is what the command line needs to go on with a JSON output; None for a command that cannot.
    """
    last: Run | None = None
    try:
        with contextlib.closing(runs):
            for last in runs:
                save(last)
    except (KeyboardInterrupt, Stopped):
        done = 0 if last is None else finished(last)
        console.complain(f"interrupted: {done} of {total} cases finished{_how_to_go_on(outputs, again)}")
        raise
    finally:
        if last is not None:
            try:
                outputs.write(last)
            finally:
                console.stdout().print(show(last))
    assert last is not None  # a run has at least one case
    return last


def _how_to_go_on(outputs: Outputs[Run], again: str | None) -> str:
    if again is None:
        return ""
    if outputs.records is None:
        return "; with --output FILE.json it could go on"
    return f"; go on with: {' '.join(filter(None, (command_line(), again)))}"


def case_status(run: RunFile) -> ExitCode:
    """4 when a case ran out of memory or crashed, else 0."""
    failed = any(record.status in ("oom", "crashed") for record in run.records)
    return ExitCode.CASE_FAILED if failed else ExitCode.OK


def _within_host_memory(finish: Finish, size_bytes: int | None) -> Finish:
    """Records that need more host memory than was given fail."""
    if size_bytes is None:
        return finish
    given = HostBudget(size_bytes, asked=True)
    return lambda records: tuple(map(given.judge, finish(records)))


def _runner_on(start: Callable[..., Runner], devices: str | None) -> AnyRunner:
    """The runner of the first GPU, or of those that were asked for. Raises: UsageError as `chosen_devices`."""
    if devices is None:
        return start()
    return SideBySide([start(device=device.uuid) for device in chosen_devices(devices).values()])


def _check_devices(cases: Sequence[Case], backend: Backend, gpu: str | None, caps: bool) -> None:
    """Raises: UsageError for cases that are not measured one apart from the other."""
    if backend == "predict" or gpu is not None:
        raise UsageError("--devices measures on CUDA GPUs: leave out --gpu and --backend predict, or --devices")
    if any(case.sharding is not None for case in cases):
        raise UsageError("--devices is not for a sharded case, which takes several GPUs itself: leave it out")
    if caps:
        raise UsageError("--devices is not for --params here: its modes share one model in host memory; leave it out")


def _check_gpu(backend: Backend, gpu: str | None) -> None:
    """Naming a GPU asks for a prediction."""
    if gpu is None:
        return
    if backend == "cuda":
        raise UsageError(f"--gpu {gpu} asks for a prediction: leave it out with --backend cuda")
    choose_gpu(gpu)


def _runs(
    cases: Sequence[Case],
    backend: Backend,
    options: RunOptions,
    proofs: ProofOptions,
    caps: bool,
    snapshot: Path | None,
    finish: Finish,
    journal: Journal,
) -> Generator[RunFile]:
    """The run so far, after each case."""
    records: dict[int, Record] = {}
    with (
        ProgressBar(len(cases)) as bar,
        _runner_on(
            functools.partial(
                Runner,
                backend,
                workspace=cases[0].workspace,
                gpu=options.gpu,
                proves=proofs.prove,
                bisects=proofs.bisect,
                caps=caps,
                snapshot=snapshot,
                timeout_seconds=options.timeout,
                retries=options.retries,
                waits=options.wait,
                on_notice=console.complain,
                on_progress=bar.phase,
            ),
            options.devices,
        ) as runner,
    ):
        if proofs.prove and runner.backend != "cuda":
            raise UsageError(
                "--prove runs the case on a CUDA GPU, and there is none here: leave it out for a prediction"
            )
        if options.devices is not None and runner.backend != "cuda":
            raise UsageError("--devices measures on CUDA GPUs, and torch sees none here: leave it out for a prediction")
        if snapshot is not None and runner.backend != "cuda":
            raise UsageError("--snapshot records a run on a CUDA GPU, and there is none here: leave it out")
        if any(case.config is not None and case.config.weights == "accelerate" for case in cases):
            check_accelerate(copies=runner.backend == "cuda")
        begin(journal, runner, among(cases))
        no_gpu = backend == "auto" and options.gpu is None and runner.backend == "predict"

        def complete(record: Record) -> Record:
            return dataclasses.replace(record, notes=(*record.notes, NO_GPU)) if no_gpu else record

        for place, record in run_journaled(runner, cases, journal, complete):
            records[place] = record
            bar.finished()
            yield run_file(journal, runner, finish([records[place] for place in sorted(records)]))
