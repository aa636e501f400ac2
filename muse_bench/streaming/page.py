"""Tensors whose values live in one piece of host memory, and that show device memory while they are lent some."""

import itertools
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from muse_bench.streaming import traffic
from muse_bench.streaming.memory import ALIGNMENT, ANY_ROOM, HostMemory, HostRoom, Progress


class Page:
    """Takes the values of these tensors over into host memory, pinned where the device is a GPU.

    It is taken from `memory`; without one PyTorch allocates it, and pins up to the next power of two.

    A tensor that is not at hand keeps its shape and dtype and shows one value for all, which takes no memory to speak
    of. On `meta` there are no values: only sizes.
    """

    def __init__(self, tensors: Sequence[Tensor], memory: HostMemory | None = None) -> None:
        self.tensors, self._memory = tuple(tensors), memory
        self.starts = page_starts(tensors)
        self.size_bytes = self.starts[-1]
        self.device = tensors[0].device
        self._blanks = [tensor.new_zeros(()).expand(tensor.shape) for tensor in self.tensors]
        self.host = self._host_memory()
        traffic.to_host(self.size_bytes)
        if self.host is not None:
            for tensor, value in zip(self.tensors, self.views(self.host), strict=True):
                value.copy_(tensor.detach())
        self._gradients: Tensor | None = None
        self.kept: set[int] = set()  # the tensors whose gradients are in host memory
        self.hide()

    def views(self, memory: Tensor) -> list[Tensor]:
        """The tensors as parts of this memory, (at least size_bytes,) uint8."""
        return [
            memory[start : start + tensor.numel() * tensor.element_size()].view(tensor.dtype).view(tensor.shape)
            for start, tensor in zip(self.starts, self.tensors, strict=False)
        ]

    def show(self, memory: Tensor) -> None:
        """The tensors show this memory."""
        for tensor, view in zip(self.tensors, self.views(memory), strict=True):
            tensor.data = view

    def hide(self) -> None:
        """The tensors show nothing of use."""
        for tensor, blank in zip(self.tensors, self._blanks, strict=True):
            tensor.data = blank

    def keep_gradient(self, index: int) -> None:
        """A tensor's gradient moves to host memory, where those of several backward passes add up."""
        tensor = self.tensors[index]
        assert tensor.grad is not None
        self.add_gradient(index, slice(None), tensor.grad)
        self.kept.add(index)
        tensor.grad = None

    def add_gradient(self, index: int, rows: slice, gradient: Tensor) -> None:
        """Of these rows of a tensor, which is in `kept` once there is one of all of them."""
        if self._gradients is None:
            self._gradients = self._host_memory()
        place = None if self._gradients is None else self.views(self._gradients)[index][rows]
        if index in self.kept:
            before = torch.empty_like(gradient)
            traffic.to_device(gradient.nbytes)
            if place is not None:
                before.copy_(place, non_blocking=True)
            gradient = gradient + before
        traffic.to_host(gradient.nbytes)
        if place is not None:
            place.copy_(gradient, non_blocking=True)

    def gradient(self, index: int) -> Tensor | None:
        """A tensor's gradient in host memory, if there is one."""
        if self._gradients is None or index not in self.kept:
            return None
        return self.views(self._gradients)[index]

    def drop_gradients(self) -> None:
        """Those of the next backward pass begin anew."""
        self.kept.clear()

    @property
    def host_bytes(self) -> dict[str, int]:
        """What it keeps in host memory."""
        return {"weights": self.size_bytes, "gradients": self.size_bytes if self.kept else 0}

    def restore(self) -> None:
        """The tensors have memory of their own on the device again, with their values."""
        for index, tensor in enumerate(self.tensors):
            value = torch.empty(tensor.shape, dtype=tensor.dtype, device=self.device)
            traffic.to_device(value.nbytes)
            if self.host is not None:
                value.copy_(self.values()[index])
            tensor.data = value

    def adopt(self, memory: Tensor) -> None:
        """Its values are those in this memory, (size_bytes,) uint8 on the CPU, from here on.

        A step that is captured already goes on with the memory that it knows.
        """
        self.host = memory

    def values(self) -> list[Tensor]:
        """The tensors' values in host memory.

        Raises: RuntimeError on `meta`, where there are none.
        """
        if self.host is None:
            raise RuntimeError("a model on meta has no values")
        return self.views(self.host)

    def _host_memory(self) -> Tensor | None:
        if self.device.type == "meta":
            return None
        if self._memory is not None:
            return self._memory.take(self.size_bytes)
        pinned = self.device.type == "cuda"
        return torch.empty(self.size_bytes, dtype=torch.uint8, device="cpu", pin_memory=pinned)


def page_starts(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """Where the tensors of a page begin, in bytes, and last where the page ends."""
    sizes = (-(-tensor.numel() * tensor.element_size() // ALIGNMENT) * ALIGNMENT for tensor in tensors)
    return (0, *itertools.accumulate(sizes))


def memory_for(
    pages: Iterable[Sequence[Tensor]],
    device: torch.device,
    room: HostRoom = ANY_ROOM,
    progress: Progress | None = None,
) -> HostMemory | None:
    """Memory of that room with a place for each page of such tensors, to the byte; None on `meta`.

    Raises: HostMemoryShort.
    """
    if device.type == "meta":
        return None
    memory = HostMemory(device, folder=room.folder, total_bytes=room.total_bytes)
    memory.reserve([page_starts(tensors)[-1] for tensors in pages], progress)
    return memory
