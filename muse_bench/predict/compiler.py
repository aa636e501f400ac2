"""Spares a prediction the import of PyTorch's compiler, which takes longer than the prediction itself."""

import contextlib
import importlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch

NAME = "torch._dynamo"


class _AbsentConfig:
    """Stands for torch._dynamo.config where a checkpoint notes a setting for a recomputation that is traced."""

    error_on_nested_fx_trace = True  # as it is unless set

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(f"{NAME}.config"), name)


class _Absent(types.ModuleType):
    """Stands for torch._dynamo where optimizers and checkpoints ask it to leave them alone; for more, it is loaded."""

    config = _AbsentConfig()

    @staticmethod
    def disable(fn: Callable[..., Any] | None = None, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """Nothing is compiled, so nothing has to be kept from it."""
        return fn if fn is not None else (lambda wrapped: wrapped)

    @staticmethod
    def graph_break(*args: Any, **kwargs: Any) -> None:
        """Nothing is compiled, so there is no graph to break."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(NAME) is self:
            del sys.modules[NAME]
            importlib.import_module(NAME)
        # While it is being imported its parts ask for it too, by the name in torch.
        torch._dynamo = sys.modules[NAME]
        return getattr(torch._dynamo, name)


@contextlib.contextmanager
def deferred_compiler() -> Iterator[None]:
    """Inside, torch._dynamo is not imported until something needs it. Does nothing where it has been already.

    For models of this project: other libraries import its parts in an order that stands no stand-in.
    """
    if NAME in sys.modules:
        yield
        return
    absent = sys.modules[NAME] = torch._dynamo = _Absent(NAME)
    try:
        yield
    finally:
        if sys.modules.get(NAME) is absent:
            del sys.modules[NAME], torch._dynamo
