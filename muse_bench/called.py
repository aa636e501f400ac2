"""Lets a package be called as the function of its name: `muse_bench.predict` is both, once the package is imported."""

import importlib
import sys
import types
from typing import Any


class CalledPackage(types.ModuleType):
    """A package that, called, is the function of `muse_bench.api` that has its name."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        function = getattr(importlib.import_module("muse_bench.api"), self.__name__.rpartition(".")[2])
        return function(*args, **options)


def let_be_called(package: str) -> None:
    """Importing any part of a package puts it in the place of what `muse_bench` has under that name."""
    sys.modules[package].__class__ = CalledPackage
