"""Names for the parts of a model that are running, for those who attribute memory to them. Imports nothing heavy.

A module's own name is entered by the observer's hooks; code that is no module, such as a tied head's loss, names
itself with `scope`.
"""

import contextlib
from collections.abc import Callable, Iterator

COMMUNICATION = "(communication)"  # what collectives send from and receive into

_stack: list[str] = []
_listeners: list[Callable[[str], None]] = []


def current() -> str:
    """The innermost scope's name; empty outside any."""
    return _stack[-1] if _stack else ""


def enter(name: str) -> None:
    """Enters a scope; each `enter` is answered by one `leave`."""
    _stack.append(name)
    _announce()


def leave() -> None:
    """Leaves the innermost scope."""
    if _stack:
        _stack.pop()
    _announce()


@contextlib.contextmanager
def scope(name: str) -> Iterator[None]:
    """Everything inside runs under this name."""
    enter(name)
    try:
        yield
    finally:
        leave()


@contextlib.contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Calls `listener` with the current name at every change."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def _announce() -> None:
    for listener in _listeners:
        listener(current())
