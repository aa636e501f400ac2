"""Models from a user's own code: package.module:factory or file.py:factory."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from muse_bench.errors import UsageError


def load_factory(reference: str) -> Callable[[], Any]:
    """The function that `reference` names.

    Raises: UsageError when there is no such file, module or function, or importing it raises.
    """
    source, _, name = reference.rpartition(":")
    if not source or not name.isidentifier():
        raise UsageError(f"'{reference}' does not name a model: write package.module:factory or file.py:factory")
    module = _import_file(Path(source)) if source.endswith(".py") else _import_module(source)
    factory = getattr(module, name, None)
    if not callable(factory):
        raise UsageError(f"'{source}' has no function '{name}'")
    return factory  # type: ignore[no-any-return]


def build_external(reference: str) -> nn.Module:
    """The model that the factory `reference` returns.

    Raises: UsageError when the factory cannot be found, raises, or returns something else than an nn.Module;
        torch.cuda.OutOfMemoryError as it is.
    """
    factory = load_factory(reference)
    try:
        model = factory()
    except torch.cuda.OutOfMemoryError:
        raise  # no mistake of the factory's: the case does not fit
    except (Exception, SystemExit) as error:
        raise UsageError(f"the factory '{reference}' raised {_one_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"the factory '{reference}' returned {type(model).__name__}, not an nn.Module")
    return model


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"there is no file '{path}'")
    name = f"_external_{path.stem}"  # the stem alone may be the name of a module that is in use
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.append(str(path.resolve().parent))  # what lies beside the file can be imported from it
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        raise UsageError(f"importing '{path}' raised {_one_line(error)}") from error
    return module


def _import_module(name: str) -> Any:
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(f"there is no module '{error.name}' (from '{name}')") from error
    except Exception as error:
        raise UsageError(f"importing '{name}' raised {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
