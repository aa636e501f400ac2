"""Benchmarks of the kernels: each module of `rows` describes one kernel. Adding one is adding its file."""

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from muse_bench.kernel_bench.benchmark import Benchmark


@functools.cache
def benchmarks() -> Mapping[str, Benchmark[Any]]:
    """Every benchmark by the name of its kernel. Imports no torch: rows import what they run when it is run."""
    rows = importlib.import_module(f"{__name__}.rows")
    names = [module.name for module in pkgutil.iter_modules(rows.__path__)]
    return {name: importlib.import_module(f"{rows.__name__}.{name}").BENCHMARK for name in names}
