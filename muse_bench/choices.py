"""Words that options choose from, and sizes: what the fields of a config may hold."""

import types
import typing
from typing import Any, Literal

from muse_bench.errors import UsageError

LARGEST_SIZE = 1 << 40


def choices(alias: Any) -> tuple[str, ...]:
    """The words a Literal type admits, in order."""
    return typing.get_args(alias)


def literal_words(annotation: Any) -> tuple[str, ...]:
    """The words that an annotation admits, whatever else it does."""
    if typing.get_origin(annotation) is Literal:
        return choices(annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(word for part in typing.get_args(annotation) for word in literal_words(part))
    return ()


def require_positive(value: Any, *names: str) -> None:
    """Raises: UsageError that names the first of these fields that is no size."""
    for name in names:
        number = getattr(value, name)
        if not isinstance(number, int) or not 0 < number <= LARGEST_SIZE:
            raise UsageError(f"{name} {number} is not a size: use a whole number from 1 to 2^40")


def require_choices(value: Any) -> None:
    """Raises: UsageError that names the first field whose word is not among those that its type admits."""
    for field, annotation in typing.get_type_hints(type(value)).items():
        words = literal_words(annotation)
        chosen = getattr(value, field)
        if words and chosen is not None and chosen not in words:
            raise UsageError(f"{field} '{chosen}' is unknown: choose from {', '.join(words)}")
