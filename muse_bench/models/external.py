"""Models and steps from a user's own code: package.module:factory or file.py:factory."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from muse_bench.errors import UsageError
from muse_bench.step import Step


def load_factory(reference: str, what: str = "model") -> Callable[..., Any]:
    """The function that `reference` names; `what` it makes is for the message.

    Raises: UsageError when there is no such file, module or function, or importing it raises.
    """
    source, _, name = reference.rpartition(":")
    if not source or not name.isidentifier():
        raise UsageError(f"'{reference}' does not name a {what}: write package.module:factory or file.py:factory")
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
    return called(load_factory(reference), reference)


def called(factory: Callable[..., Any], name: str) -> nn.Module:
    """The model that the factory of this name returns. Raises: as `build_external`."""
    try:
        model = factory()
    except torch.cuda.OutOfMemoryError:
        raise  # no mistake of the factory's: the case does not fit
    except (Exception, SystemExit) as error:
        raise UsageError(f"the factory '{name}' raised {one_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"the factory '{name}' returned {type(model).__name__}, not an nn.Module")
    return model


def build_setup(reference: str, device: torch.device) -> Step:
    """The step that the function `reference` sets up on the device.

    Raises: UsageError when the function cannot be found, raises, returns something else than a Step, or puts parameters
        or inputs on another device; torch.cuda.OutOfMemoryError as it is.
    """
    return set_up(load_factory(reference, "setup"), reference, device)


def set_up(function: Callable[..., Any], name: str, device: torch.device) -> Step:
    """The step that the function of this name sets up on the device. Raises: as `build_setup`."""
    try:
        step = function(device)
    except torch.cuda.OutOfMemoryError:
        raise
    except (Exception, SystemExit) as error:
        advice = "" if device.type == "cuda" else " (for a prediction it is given the device 'meta': build there)"
        raise UsageError(f"the setup '{name}' raised {one_line(error)}{advice}") from error
    if not isinstance(step, Step):
        raise UsageError(f"the setup '{name}' returned {type(step).__name__}, not a muse_bench.Step")
    check_device(step, device, f"the setup '{name}'", "build them on the device that the function is given")
    return step


def check_device(step: Step, device: torch.device, whose: str, advice: str) -> None:
    """Raises: UsageError when a parameter or an input of the step is on another kind of device."""
    parts = [("parameters", parameter) for model in models_of(step) for parameter in model.parameters()]
    for what, tensor in [*parts, *(("inputs", tensor) for tensor in step.inputs)]:
        if tensor.device.type != device.type:
            raise UsageError(f"{whose} has {what} on {tensor.device.type}, not on {device.type}: {advice}")


def models_of(step: Step) -> tuple[nn.Module, ...]:
    """The step's models, one or several."""
    return (step.model,) if isinstance(step.model, nn.Module) else tuple(step.model)


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
    except torch.OutOfMemoryError:
        raise
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        raise UsageError(f"importing '{path}' raised {one_line(error)}") from error
    return module


def _import_module(name: str) -> Any:
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(f"there is no module '{error.name}' (from '{name}')") from error
    except torch.OutOfMemoryError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"importing '{name}' raised {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """The error in one line that is not too long."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
