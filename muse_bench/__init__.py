"""muse-bench measures, explains, predicts and shrinks the GPU memory of language models."""

import importlib
from typing import TYPE_CHECKING, Any

from muse_bench.step import Step

if TYPE_CHECKING:
    from muse_bench.api import measure, predict, watch
    from muse_bench.record import Record

__all__ = ["Record", "Step", "__version__", "measure", "predict", "watch"]
__version__ = "0.1.0"

_PLACES = {"measure": "api", "predict": "api", "watch": "api", "Record": "record"}


def __getattr__(name: str) -> Any:
    """What is imported when it is first asked for: the command line must not wait for it."""
    if name not in _PLACES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
