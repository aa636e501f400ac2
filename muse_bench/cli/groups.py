"""Option groups: a command takes frozen dataclasses of options, Typer sees one option for each of their fields."""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

KEYWORD = inspect.Parameter.KEYWORD_ONLY


def flattened(command: Callable[..., int]) -> Callable[..., int]:
    """The command with a signature in which the fields of its option groups stand for the groups."""
    hints = typing.get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}

    @functools.wraps(command)
    def call(**values: Any) -> int:
        filled = {name: _fill(group, values) for name, group in groups.items()}
        return command(**filled, **values)

    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters += _fields(groups[name])
        else:
            parameters.append(parameter.replace(kind=KEYWORD, annotation=hints[name]))
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {}
    return call


def _fields(group: Any) -> list[inspect.Parameter]:
    hints = typing.get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(field.name, KEYWORD, default=field.default, annotation=hints[field.name])
        for field in dataclasses.fields(group)
    ]


def _fill(group: Any, values: dict[str, Any]) -> Any:
    """The group's value, its fields taken out of the values."""
    return group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
