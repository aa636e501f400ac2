"""What an interrupted training run leaves on disk, and taking it up again exactly where it was."""

import contextlib
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from muse_bench.quality.step import TrainingStep


def save_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, values: dict[str, Any]) -> None:
    """Writes the model, the optimizer's state, the random state and `values` to a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    state = {
        "model": model.state_dict(),
        "optimizer": [optimizer.state.get(parameter, {}) for parameter in _parameters(optimizer)],
        "random": torch.get_rng_state(),
        "cuda_random": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "values": values,
    }
    try:
        torch.save(state, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Restores what `save_checkpoint` wrote and returns its `values`; None when there is no such file, or half of one.

    The optimizer's state is put back as it was: `load_state_dict` would cast it to the dtype of the weights.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, weights_only=True)  # to the devices that it came from
        model.load_state_dict(state["model"])
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError):
        return None
    for parameter, kept in zip(_parameters(optimizer), state["optimizer"], strict=True):
        if kept:
            optimizer.state[parameter] = kept
    torch.set_rng_state(state["random"])
    if state["cuda_random"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda_random"])
    values: dict[str, Any] = state["values"]
    return values


def drop_checkpoint(path: Path | None) -> None:
    """Removes the file of a run that has finished."""
    if path is not None:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def scale_state(step: TrainingStep) -> tuple[float, int, int] | None:
    """The loss scale's numbers, for a checkpoint."""
    scale = step.scale
    return None if scale is None else (scale.value, scale.clean, scale.skipped)


def restore_scale(step: TrainingStep, numbers: tuple[float, int, int] | None) -> None:
    """Puts the numbers of `scale_state` back."""
    if step.scale is not None and numbers is not None:
        value, step.scale.clean, step.scale.skipped = numbers
        step.scale.set(value)


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]
