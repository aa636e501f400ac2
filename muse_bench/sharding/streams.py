"""Streams of a device on which nothing runs: all that FSDP2 asks of one is which it is on. Imports no torch."""

import contextlib
import itertools
import types
from collections.abc import Iterator

_numbers = itertools.count(1)  # 0 is the device's own stream
_entered: list[int] = []


def current_stream() -> int:
    """The number of the stream that runs; 0 outside any."""
    return _entered[-1] if _entered else 0


class ImaginedStream:
    """A stream or an event, over as soon as it begins."""

    def __init__(self, *_: object, **__: object) -> None:
        self.number = next(_numbers)

    def wait_event(self, event: "ImaginedStream") -> None:
        """Nothing to wait for."""

    wait_stream = wait_event

    def record_event(self, event: "ImaginedStream | None" = None) -> "ImaginedStream":
        """An event that is over."""
        return event or self

    def record(self, stream: "ImaginedStream | None" = None) -> "ImaginedStream":
        """The event itself: it is over."""
        return self

    def wait(self, stream: "ImaginedStream | None" = None) -> None:
        """Nothing to wait for."""

    def synchronize(self) -> None:
        """Nothing to wait for."""


@contextlib.contextmanager
def _on(stream: ImaginedStream) -> Iterator[None]:
    _entered.append(stream.number)
    try:
        yield
    finally:
        _entered.pop()


def imagined_device(ranks: int) -> types.SimpleNamespace:
    """What `torch.cuda` is to CUDA, as far as sharding asks."""
    own = ImaginedStream()
    own.number = 0
    return types.SimpleNamespace(
        Stream=ImaginedStream,
        Event=ImaginedStream,
        stream=_on,
        current_stream=lambda *_: own,
        current_device=lambda: 0,
        set_device=lambda _: None,
        device_count=lambda: ranks,
        is_available=lambda: True,
        is_initialized=lambda: True,
    )
