"""Trains one model on tokens of a file and evaluates it on those of another."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from muse_bench.config import Case
from muse_bench.quality.batches import read_ids, window_starts
from muse_bench.quality.checkpoint import (
    drop_checkpoint,
    load_checkpoint,
    restore_scale,
    save_checkpoint,
    scale_state,
)
from muse_bench.quality.evaluation import evaluate, refuse_acausal, verdict
from muse_bench.quality.step import SMALLEST_SCALE, CapturedStep, LossOf, TrainingStep
from muse_bench.quality.trial import Trial
from muse_bench.workload import Workload, build_workload, work_loss

STEADY_STEP = 2  # the optimizer's state appears in the first step; the peak is that of the steps from here on
Say = Callable[[str], None]


@dataclass(slots=True)
class Progress:
    """How far a run is: what its checkpoint holds beside the model and the optimizer."""

    step: int = 0
    curve: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0
    timed_seconds: float = 0.0
    timed_tokens: int = 0
    peak_bytes: int = 0
    diverged: str | None = None


def train(trial: Trial, device: torch.device, say: Say) -> dict[str, Any]:
    """Trains, or goes on from the trial's checkpoint, and evaluates; returns the figures of the record's row.

    Raises: UsageError for a model that sees the tokens it should predict, CannotCapture where graphs were asked for.
    """
    say("building")
    torch.set_float32_matmul_precision("high" if trial.tf32 else "highest")
    work = build_workload(on_device(trial.case), device)
    refuse_acausal(work)
    run = _Run(trial, work, device, say)
    progress = run.go()
    values: dict[str, Any] = {
        "parameters": work.parameters,
        "curve": progress.curve,
        "skipped_steps": None if run.step.scale is None else run.step.scale.skipped,
        "peak_allocated_bytes": progress.peak_bytes or None,
        "execution": "graph" if trial.graphs else "compiled" if trial.compiled else "eager",
    }
    if progress.timed_seconds > 0:
        values["tokens_per_second"] = progress.timed_tokens / progress.timed_seconds
    if on_device(trial.case) != trial.case:
        values["notes"] = ["trained with weights and checkpoints on the device: the same arithmetic, another peak"]
    diverged = progress.diverged
    if diverged is None:
        say("validating")
        found = evaluate(work, trial, device)
        values |= found
        diverged = verdict(found["validation_loss"], trial.case.vocab_size)
    values |= {"status": "ok"} if diverged is None else {"status": "diverged", "reason": diverged}
    drop_checkpoint(run.checkpoint)
    return values


def on_device(case: Case) -> Case:
    """The case with checkpoints and weights on the device: the same arithmetic, without the copies to the host."""
    if case.config is None:
        return case
    return dataclasses.replace(case, config=dataclasses.replace(case.config, offload=False, weights="device"))


class _Run:
    """The steps of one trial, from wherever its checkpoint is."""

    def __init__(self, trial: Trial, work: Workload, device: torch.device, say: Say) -> None:
        self._trial, self._work, self._device, self._say = trial, work, device, say
        self.checkpoint = None if trial.checkpoint is None else Path(trial.checkpoint)
        self._model, self._optimizer = work.model, work.optimizer
        assert self._optimizer is not None
        case = trial.case
        before = _allocated(device)
        ids = read_ids(trial.train, trial.pool_tokens, case.vocab_size, device)
        starts = window_starts(trial.pool_tokens, case.seq, trial.steps * case.batch, case.seed)
        self._starts = starts.view(trial.steps, case.batch).to(device)
        self._text_bytes = _allocated(device) - before
        loss_of: LossOf = functools.partial(work_loss, work)
        if trial.compiled:
            loss_of = torch.compile(loss_of)
        kind = CapturedStep if trial.graphs else TrainingStep
        self.step = kind(work, ids, loss_of)
        self._progress = self._restored()

    def go(self) -> Progress:
        """Takes the steps that are left, until the end or until the loss diverges."""
        progress, trial = self._progress, self._trial
        first, tokens = progress.step, trial.case.batch * trial.case.seq
        self._model.train()
        looked = saved = time.monotonic()
        steps = 0  # since the last look
        while progress.step < trial.steps and progress.diverged is None:
            if progress.step == first + STEADY_STEP and self._device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            self.step(self._starts[progress.step], trial.rate(progress.step))
            progress.step += 1
            steps += 1
            if progress.step % trial.window and progress.step < trial.steps:
                continue
            self._look(steps)
            now = time.monotonic()
            progress.seconds += now - looked
            if progress.step - steps > first or trial.steps <= first + steps:  # warm-up, compilation: not the speed
                progress.timed_seconds += now - looked
                progress.timed_tokens += steps * tokens
            progress.peak_bytes = max(progress.peak_bytes, self._peak())
            if now - saved >= trial.checkpoint_seconds and progress.step < trial.steps:
                self._save()
                saved = time.monotonic()
            looked, steps = time.monotonic(), 0
            self._tell()
        return progress

    def _look(self, steps: int) -> None:
        """Reads the mean loss of the steps since the last look, which waits for the device."""
        progress = self._progress
        loss = float(self.step.loss_sum) / steps
        self.step.loss_sum.zero_()
        seen = progress.step * self._trial.case.batch * self._trial.case.seq
        scale = self.step.scale
        if scale is not None and scale.value < SMALLEST_SCALE:
            progress.diverged = f"gradients overflow float16 at any loss scale, {seen:,} tokens in"
        elif not math.isfinite(loss):
            progress.diverged = f"the loss was not finite after {seen:,} tokens"
        if math.isfinite(loss):
            progress.curve.append((seen, loss))

    def _tell(self) -> None:
        progress, trial = self._progress, self._trial
        loss = f"loss {progress.curve[-1][1]:.3f}" if progress.curve else "no loss"
        rate = progress.step / progress.seconds if progress.seconds else 0.0
        left = (trial.steps - progress.step) / rate if rate else 0.0
        minutes, seconds = divmod(round(left), 60)
        self._say(f"{loss}, {progress.step / trial.steps:.0%}, {minutes}:{seconds:02} left")

    def _peak(self) -> int:
        """The most allocated so far, less the text; 0 where nothing counts it."""
        if self._device.type != "cuda":
            return 0
        captured = self.step.peak_bytes if isinstance(self.step, CapturedStep) else None
        return (captured or torch.cuda.max_memory_allocated()) - self._text_bytes

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        assert self._optimizer is not None
        progress = self._progress
        values = {name: getattr(progress, name) for name in Progress.__slots__}
        save_checkpoint(self.checkpoint, self._model, self._optimizer, {**values, "scale": scale_state(self.step)})

    def _restored(self) -> Progress:
        if self.checkpoint is None:
            return Progress()
        assert self._optimizer is not None
        values = load_checkpoint(self.checkpoint, self._model, self._optimizer)
        if values is None:
            return Progress()
        restore_scale(self.step, values.pop("scale"))
        return Progress(**values)


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated() if device.type == "cuda" else 0
