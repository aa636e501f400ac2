"""A model, a step or a factory that a caller has in hand: its name, and how it is built on a device."""

import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from muse_bench.config import SETUP
from muse_bench.errors import UsageError
from muse_bench.models.external import called, check_device, models_of, one_line, set_up
from muse_bench.step import Step

Given = nn.Module | Step | Callable[..., nn.Module | Step]


def name_of(given: Given) -> str:
    """As a reference to it would be written; that of what brings a step of its own begins with 'setup:'.

    Raises: UsageError for what is no model, no step and no function.
    """
    if isinstance(given, Step):
        return SETUP + "+".join(type(model).__name__ for model in models_of(given))
    if not callable(given):
        kind = type(given).__name__
        raise UsageError(f"{kind} is no model: give a name, an nn.Module, a muse_bench.Step or a function")
    named: Any = type(given) if isinstance(given, nn.Module) else given
    name = f"{named.__module__}:{getattr(named, '__qualname__', type(named).__qualname__)}"
    return SETUP + name if takes_device(given) else name


def takes_device(given: Given) -> bool:
    """Whether it is a setup: a function that has to be given something, which is the device."""
    if isinstance(given, nn.Module | Step):
        return False
    needed = [one for one in inspect.signature(given).parameters.values() if one.default is inspect.Parameter.empty]
    return any(one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) for one in needed)


def build_given(given: Given, device: torch.device, dtype: torch.dtype | None) -> nn.Module | Step:
    """It on the device, in the dtype if one is given; what the caller holds stays as it is.

    Raises: UsageError for a function that fails, a Step on another device, and a model that cannot be copied.
    """
    name = name_of(given)
    if isinstance(given, Step):
        check_device(given, device, "the step", f"build it on {device.type}, or give the function that builds it")
        return given
    if not isinstance(given, nn.Module) and takes_device(given):
        with device:
            return set_up(given, name.removeprefix(SETUP), device)
    if isinstance(given, nn.Module):
        return copied(given, device).to(dtype=dtype)
    with device:
        model = called(given, name)
    there = all(tensor.device.type == device.type for tensor in (*model.parameters(), *model.buffers()))
    return (model if there else copied(model, device)).to(dtype=dtype)


def copied(model: nn.Module, device: torch.device) -> nn.Module:
    """The model's copy on the device; for `meta` no weight is copied. Tensors that are shared stay shared.

    Raises: UsageError when something in it cannot be copied.
    """
    memo: dict[int, Any] = {}
    for tensor in _tensors(model):
        moved = tensor.detach().to(device)
        moved = moved.clone() if moved is tensor or moved.data_ptr() == tensor.data_ptr() != 0 else moved
        if isinstance(tensor, nn.Parameter):
            moved = nn.Parameter(moved, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = moved
    for parameter in model.parameters():
        if parameter.grad is not None:
            memo[id(parameter.grad)] = None
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # whatever an object in it does when it is copied
        raise UsageError(
            f"{type(model).__name__} cannot be copied ({one_line(error)}): give a function that builds it, "
            "such as lambda: MyModel()"
        ) from error


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Parameters, buffers, and the tensors that are attributes like any other."""
    yield from model.parameters()
    yield from model.buffers()
    for module in model.modules():
        yield from (value for value in vars(module).values() if isinstance(value, Tensor))
