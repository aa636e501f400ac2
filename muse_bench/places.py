"""Where the classes of a model's modules stand in source, so that a report can name the line."""

import functools
import inspect
import sys
from pathlib import Path

import torch
from torch import nn

from muse_bench.parts import ROOT, owner

TORCH = Path(str(torch.__file__)).parent


def places_of(model: nn.Module) -> dict[str, str]:
    """Each module's class as file.py:line: for PyTorch's own that of the module around it.

    Files are named from this folder on, or from where Python looks for them, and so the same on every machine.
    """
    places: dict[str, str] = {}
    for name, module in model.named_modules():
        around = places.get(owner(name)) if name else None
        if (place := _place(_written(type(module))) or around) is not None:
            places[name or ROOT] = place
    return places


def _written(kind: type) -> type:
    """The class as it was written: FSDP2 puts one of its own before it."""
    return kind.__bases__[1] if kind.__bases__ and kind.__bases__[0].__name__ == "FSDPModule" else kind


@functools.cache
def _place(kind: type) -> str | None:
    try:
        path = Path(inspect.getfile(kind)).resolve()
        if path.is_relative_to(TORCH):
            return None
        line = inspect.getsourcelines(kind)[1]
    except (OSError, TypeError):  # a class that was made in no file
        return None
    roots = [Path.cwd(), *(Path(entry).resolve() for entry in sys.path if entry)]
    known = [path.relative_to(root) for root in roots if path.is_relative_to(root)]
    return f"{min(known, key=lambda one: len(one.parts), default=Path(path.name)).as_posix()}:{line}"
