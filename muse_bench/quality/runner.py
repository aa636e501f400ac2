"""Runs the trials of a plan, each in a process of its own, and yields the rows so far. Imports no torch: workers do."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from muse_bench.config import Case
from muse_bench.errors import MuseBenchError, UsageError
from muse_bench.execution.process import WorkerDied, WorkerProcess
from muse_bench.execution.protocol import PRELOAD_VARIABLE
from muse_bench.execution.source import source_commit
from muse_bench.measure.nvml import driver_version
from muse_bench.quality.record import Curve, QualityRow, Stage
from muse_bench.quality.tokens import TokenFiles
from muse_bench.quality.trial import Trial
from muse_bench.record import Environment

WORKER = "muse_bench.quality.worker"
VARIABLES: dict[str, str | None] = {PRELOAD_VARIABLE: "torch._dynamo"}
FINISHED = ("ok", "diverged")  # what a run that is taken up again need not repeat
FINAL: Stage = "final"
SWEEP: Stage = "sweep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to train: each case at each rate on `sweep_tokens`, then at its best rate with each seed on `tokens`."""

    cases: tuple[Case, ...]
    lrs: tuple[float, ...]
    seeds: tuple[int, ...]
    tokens: int
    sweep_tokens: int
    validation_tokens: int
    tf32: bool = False
    compiled: bool = False
    graphs: bool = False

    @property
    def sweeps(self) -> bool:
        """Whether there is a rate to choose."""
        return len(self.lrs) > 1

    @property
    def total(self) -> int:
        """How many runs that makes."""
        return len(self.cases) * ((len(self.lrs) if self.sweeps else 0) + len(self.seeds))


class QualityRunner:
    """A context manager around a run; on entry the environment is known.

    `work` is where unfinished runs are kept, and `earlier` the rows that need not be made again.
    """

    environment: Environment

    def __init__(
        self,
        *,
        work: Path,
        earlier: Sequence[QualityRow] = (),
        timeout_seconds: float | None = None,
        say: Callable[[str], None] = lambda _: None,
        run_finished: Callable[[], None] = lambda: None,
    ) -> None:
        self._work, self._timeout_seconds = work, timeout_seconds
        self._say, self._run_finished = say, run_finished
        self._earlier = {row.identity: row for row in earlier if row.status in FINISHED}
        self._others = tuple(earlier)
        self._spare: WorkerProcess | None = None
        self._left = 0  # runs to go, this one not counted

    def __enter__(self) -> Self:
        self._say("starting")
        self._spare = self._start()
        try:
            hello = self._spare.hello()
        except WorkerDied as error:
            self._close()
            raise MuseBenchError(f"the worker process did not start: {error}") from error
        except BaseException:
            self._close()
            raise
        self._cuda = hello["cuda_unavailable"] is None
        self.environment = Environment(**hello["environment"], commit=source_commit())
        if self._cuda:
            self.environment = dataclasses.replace(self.environment, driver=driver_version())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def run(self, plan: Plan, files: TokenFiles) -> Iterator[tuple[QualityRow, ...]]:
        """All rows so far, after each that was added; those of earlier runs that this one did not ask for come first.

        Raises: UsageError for what the user has to mend, such as a factory that raises.
        """
        asked: dict[tuple[Any, ...], QualityRow] = {}
        self._left = plan.total

        def rows() -> tuple[QualityRow, ...]:
            return (*(row for row in self._others if row.identity not in asked), *asked.values())

        def finish(trial: Trial) -> QualityRow:
            self._left -= 1
            row = self._row(trial)
            asked[row.identity] = row
            self._run_finished()
            return row

        for case in plan.cases:
            swept = []
            if plan.sweeps:
                case = dataclasses.replace(case, seed=plan.seeds[0])
                for lr in plan.lrs:
                    swept.append(finish(self._trial(plan, files, case, SWEEP, lr)))
                    yield rows()
            lr = best_rate(swept) if swept else plan.lrs[0]
            for seed in plan.seeds:
                finish(self._trial(plan, files, dataclasses.replace(case, seed=seed), FINAL, lr))
                yield rows()

    def _trial(self, plan: Plan, files: TokenFiles, case: Case, stage: Stage, lr: float) -> Trial:
        environment = self.environment
        software = (environment.muse_bench, environment.torch, environment.commit, "cuda" if self._cuda else "cpu")
        step = case.batch * case.seq
        trial = Trial(
            case=case,
            stage=stage,
            lr=lr,
            tokens=(plan.sweep_tokens if stage == SWEEP else plan.tokens) // step * step,
            # A window may begin anywhere in the first sequence, and the last one ends a token late.
            pool_tokens=min(files.train_tokens, plan.tokens + 2 * case.seq),
            validation_tokens=min(plan.validation_tokens, files.validation_tokens - 1) // case.seq * case.seq,
            train=str(files.train),
            validation=str(files.validation),
            lengths=str(files.lengths),
            fingerprint=" ".join(map(str, (files.facts.sha256, *software))),
            tf32=plan.tf32 and case.dtype == "fp32" and case.autocast is None,
            compiled=plan.compiled,
            graphs=plan.graphs,
        )
        return dataclasses.replace(trial, checkpoint=str(self._work / f"{trial.key}.pt"))

    def _row(self, trial: Trial) -> QualityRow:
        row = dataclasses.replace(blank_row(trial), commit=self.environment.commit)
        if (known := self._earlier.get(row.identity)) is not None:
            return known
        begun = time.monotonic()
        found = self._ask(trial)
        gpu = found.pop("gpu", {})
        self.environment = dataclasses.replace(self.environment, **gpu)
        curve: Curve = tuple((tokens, loss) for tokens, loss in found.pop("curve", ()))
        notes = tuple(found.pop("notes", ()))
        return dataclasses.replace(
            row,
            **found,
            curve=curve,
            notes=notes,
            gpu=gpu.get("gpu"),
            seconds=round(time.monotonic() - begun, 3),
        )

    def _ask(self, trial: Trial) -> dict[str, Any]:
        """The fields of the row that the worker fills, a failure among them."""
        case = trial.case
        what = f"{case.model}, {trial.stage}, rate {trial.lr:g}, seed {case.seed}"
        worker = self._spare or self._start()
        self._spare = None
        try:
            worker.hello()
            if self._left:
                self._spare = self._start()  # imports torch while this one trains
            request = {"trial": trial.to_json()}
            result = worker.ask(request, self._timeout_seconds, lambda phase: self._say(f"{what}: {phase}"))
        except WorkerDied as error:
            return {"status": "crashed", "reason": str(error)}
        finally:
            worker.close()
        if result["status"] == "ok":
            return result["values"]
        if result["status"] == "usage":
            raise UsageError(str(result["reason"]))
        return {"status": result["status"], "reason": result["reason"]}

    def _start(self) -> WorkerProcess:
        return WorkerProcess(VARIABLES, WORKER)

    def _close(self) -> None:
        if self._spare is not None:
            self._spare.close()
        self._spare = None


def blank_row(trial: Trial) -> QualityRow:
    """The row before the trial ran: what was asked for."""
    case = trial.case
    return QualityRow(
        model=case.model,
        config={} if case.config is None else dataclasses.asdict(case.config),
        stage=trial.stage,
        seed=case.seed,
        lr=trial.lr,
        tokens=trial.tokens,
        pool_tokens=trial.pool_tokens,
        batch=case.batch,
        seq=case.seq,
        dtype=case.dtype,
        optimizer=case.optimizer,
        micro_batch=case.micro_batch,
        tf32=trial.tf32,
        autocast=case.autocast,
    )


def best_rate(swept: Sequence[QualityRow]) -> float:
    """The rate of the lowest validation loss; the smallest rate when none came to its end."""
    ended = [row for row in swept if row.status == "ok" and row.validation_loss is not None]
    if not ended:
        return min(row.lr for row in swept)
    return min(ended, key=lambda row: row.validation_loss if row.validation_loss is not None else math.inf).lr
