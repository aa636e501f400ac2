"""The report formats: each module here with a `SUFFIX` renders a run as text. Adding a format is adding its file."""

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from muse_bench.errors import UsageError
from muse_bench.record import RunFile

Run = TypeVar("Run")


@dataclass(frozen=True, slots=True)
class Format(Generic[Run]):
    """One way to write a run: its name, the suffix of its files, its renderer.

    `sections` says whether the texts of several runs may follow one another in one document. `check` raises a
    UsageError where something that the renderer needs is not installed.
    """

    name: str
    suffix: str
    sections: bool
    render: Callable[[Run], str]
    check: Callable[[], None] = lambda: None


@functools.cache
def formats() -> Mapping[str, Format[RunFile]]:
    """Every format by name, found among this package's modules."""
    found: dict[str, Format[RunFile]] = {}
    for module_info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        if hasattr(module, "SUFFIX"):
            sections = getattr(module, "SECTIONS", False)
            known = Format(module_info.name, module.SUFFIX, sections, module.render)
            found[known.name] = dataclasses.replace(known, check=module.check) if hasattr(module, "check") else known
    return found


def format_of(path: Path, choices: Iterable[Format[Run]]) -> Format[Run]:
    """The format, of those to choose from, that a file's suffix asks for.

    Raises: UsageError that lists the suffixes there are.
    """
    choices = tuple(choices)
    for known in choices:
        if path.suffix.lower() == known.suffix:
            return known
    suffixes = ", ".join(sorted(known.suffix for known in choices))
    raise UsageError(f"{path}: unknown suffix '{path.suffix}': use one of {suffixes}")


def document(known: Format[Run], runs: Sequence[Run]) -> str:
    """The runs in one text.

    Raises: UsageError for several runs in a format that has no sections to keep their environments apart.
    """
    if len(runs) > 1 and not known.sections:
        raise UsageError(
            f"{known.name} holds records of one environment, and these come from {len(runs)}: render them one by one"
        )
    return "\n".join(known.render(run) for run in runs)
