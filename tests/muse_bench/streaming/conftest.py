"""A stand-in for CUDA's side of host memory, which remembers what is registered."""

import contextlib
from collections.abc import Callable

import pytest
import torch

from muse_bench.streaming import registration


class FakeCudart:
    """Registers as CUDA does, until it is told to refuse a piece or to be interrupted behind it."""

    def __init__(self) -> None:
        self.registered: dict[int, int] = {}
        self.calls: list[int] = []
        self.refuse_at: int | None = None
        self.interrupt_at: int | None = None
        self.synchronised = 0
        self.forgotten = 0

    def cudaHostRegister(self, address: int, size_bytes: int, flags: int) -> int:  # noqa: N802
        number = len(self.calls)
        self.calls.append(address)
        if number == self.refuse_at:
            return 2
        self.registered[address] = size_bytes
        if number == self.interrupt_at:
            raise KeyboardInterrupt
        return 0

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        return 713 if self.registered.pop(address, None) is None else 0

    def cudaGetErrorString(self, result: int) -> str:  # noqa: N802
        return {2: "out of memory"}[result]


@pytest.fixture
def cudart(monkeypatch: pytest.MonkeyPatch) -> FakeCudart:
    fake = FakeCudart()

    def count(name: str) -> Callable[[object], None]:
        return lambda _: setattr(fake, name, getattr(fake, name) + 1)

    monkeypatch.setattr(torch.cuda, "cudart", lambda: fake)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", count("synchronised"))
    monkeypatch.setattr(registration, "_forget_error", count("forgotten"))
    return fake
