"""Says why a model could not be traced: which operation, and which line of whose code called it."""

import traceback
from pathlib import Path
from types import TracebackType

import torch

import muse_bench
from muse_bench.errors import UntraceableModel

_MACHINERY = tuple(str(Path(str(package.__file__)).parent) for package in (torch, muse_bench))
LONGEST_MESSAGE = 200


def explain(error: Exception, operation: str) -> UntraceableModel:
    """The error as one line that names the operation that was running and the line that called it."""
    message = " ".join(str(error).split())[:LONGEST_MESSAGE]
    reason = message if isinstance(error, UntraceableModel) else f"{type(error).__name__}: {message}"
    return UntraceableModel(
        f"the model cannot be traced without a GPU: {operation} at {call_site(error.__traceback__)}: {reason}"
    )


def call_site(trace: TracebackType | None) -> str:
    """The innermost line outside PyTorch and this package, as file:line in function."""
    frames = traceback.extract_tb(trace)
    own = [frame for frame in frames if not frame.filename.startswith((*_MACHINERY, "<"))]
    if not own:
        return "an unknown line"
    frame = own[-1]
    return f"{frame.filename}:{frame.lineno} in {frame.name}"
