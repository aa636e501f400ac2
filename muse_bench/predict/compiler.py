"""Spares a prediction the import of PyTorch's compiler, which takes longer than the prediction itself."""

import importlib
import sys
import types
from collections.abc import Callable
from typing import Any

import torch

NAME = "torch._dynamo"


class _Absent(types.ModuleType):
    """Stands for torch._dynamo where optimizers and hooks ask it to leave them alone; asked for more, it is loaded."""

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


def defer_compiler() -> None:
    """Until something needs it, torch._dynamo is not imported. Does nothing where it has been already."""
    if NAME not in sys.modules:
        sys.modules[NAME] = torch._dynamo = _Absent(NAME)
