"""Reading JSON that anybody may have written: every value is held against the dataclass that it becomes."""

import dataclasses
import json
import math
import os
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from muse_bench.errors import UsageError

LARGEST_FILE_BYTES = 256 << 20
LARGEST_NUMBER = (1 << 63) - 1

Parsed = TypeVar("Parsed")


def read_json(path: Path, parse: Callable[[Any], Parsed]) -> Parsed:
    """What `parse` makes of a JSON file.

    Raises: UsageError that names the file when it cannot be read or is not what `parse` expects.
    """
    try:
        return parse(parse_json(_read(path)))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not a record file: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: not a record file: a value is missing or of the wrong type ({error})") from error
    except UsageError as error:
        raise UsageError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from error


def parse_json(text: str | bytes) -> Any:
    """The text's value. Raises: ValueError for no JSON, a number that is none, and an object with a key twice."""
    return json.loads(text, parse_constant=_finite, parse_float=_finite, object_pairs_hook=_once_each)


def known_fields(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Those of the values that the dataclass has a field for: a newer minor version may have written more."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in values.items() if name in names}


def listed(name: str, value: Any) -> list[Any]:
    """The value, which must be a list."""
    if not isinstance(value, list):
        raise UsageError(f"not a record file: '{name}' is not a list")
    return value


def check_values(kind: type, values: dict[str, Any]) -> None:
    """Raises: UsageError that names the first value that its field of the dataclass cannot hold."""
    hints = typing.get_type_hints(kind)
    for name, value in values.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and name.endswith("_bytes") and not _are_sizes(value):
            raise UsageError(f"'{name}' is {value!r:.60}: it must be a whole number of bytes")
        if number and value < 0 and name != "reduction":
            raise UsageError(f"'{name}' is {value!r:.60}: it must be a number of at least zero")
        if not _fits(value, hints[name]):
            raise UsageError(f"'{name}' is {value!r:.60}: that is not what it holds")
        if name == "config" and any(isinstance(part, dict | list) for part in value.values()):
            raise UsageError("'config' holds a list or an object: its values are plain")
        if name == "peers" and not all(part is None or is_size(part) for part in value.values()):
            raise UsageError("'peers' holds what is neither a whole number of bytes nor null")


def is_size(value: Any) -> bool:
    """Whether it is a whole number, from 0, that 63 bits hold."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_NUMBER


def _are_sizes(value: Any) -> bool:
    """Whether it is a size, or an object of sizes whose sum is one too."""
    parts = list(value.values()) if isinstance(value, dict) else [value]
    return all(map(is_size, parts)) and is_size(sum(parts))


def _fits(value: Any, hint: Any) -> bool:
    """Whether a parsed JSON value is of the annotated type; true and false are no numbers."""
    if typing.get_origin(hint) is Literal:
        return value in typing.get_args(hint)
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return any(_fits(value, part) for part in typing.get_args(hint))
    if isinstance(value, bool):
        return hint is bool
    if isinstance(value, int):
        return hint in (int, float) and abs(value) <= LARGEST_NUMBER
    return isinstance(value, typing.get_origin(hint) or hint)


def _read(path: Path) -> str:
    """A file's text. What has no size of its own, such as a pipe or a device, is not read to its end either."""
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        content = stream.read(LARGEST_FILE_BYTES + 1) if size <= LARGEST_FILE_BYTES else b""
    if max(size, len(content)) > LARGEST_FILE_BYTES:
        raise UsageError(f"{path}: larger than {LARGEST_FILE_BYTES >> 20} MiB: not a record file of muse-bench")
    return content.decode()


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object. Of two values for one key, readers differ in which of them counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for index, (name, _) in enumerate(pairs) if name in dict(pairs[:index]))
        raise ValueError(f"{twice!a:.60} is in one object twice")
    return found


def _finite(text: str) -> float:
    """A number of the file; NaN, Infinity and 1e999 are none that a record may hold."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text:.60} is not a number that a record may hold")
    return number
