"""Copies between host and device, in order, beside the computation."""

import contextlib
from collections.abc import Iterable

import torch
from torch import Tensor

Moment = torch.cuda.Event | None  # None: what it would wait for is over


class Lane:
    """A stream of its own for copies in one direction.

    Where there are no streams a copy is made at once; on `meta`, never.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def begin(self) -> None:
        """What is copied from here on comes after what has been computed so far."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))

    def copy(self, target: Tensor, source: Tensor, after: Iterable[Moment] = ()) -> Moment:
        """Copies when all those moments have passed; returns the moment at which the copy is whole."""
        if self._device.type == "meta":
            return None
        with contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            for moment in after:
                if moment is not None and self._stream is not None:
                    self._stream.wait_event(moment)
            target.copy_(source, non_blocking=True)
        return None if self._stream is None else self._stream.record_event()

    def finish(self) -> None:
        """What is computed from here on comes after all copies so far."""
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)


def now(device: torch.device) -> Moment:
    """The moment at which what has been computed so far is done."""
    return torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None


def wait_for(moment: Moment, device: torch.device) -> None:
    """What is computed from here on comes after this moment."""
    if moment is not None:
        torch.cuda.current_stream(device).wait_event(moment)
