"""Tensors whose values live in one piece of host memory, and that show device memory while they are lent some."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

ALIGNMENT = 512  # bytes, as the allocator has it


class Page:
    """Takes the values of these tensors over into host memory, pinned where the device is a GPU.

    A tensor that is not at hand keeps its shape and dtype and shows one value for all, which takes no memory to speak
    of. On `meta` there are no values: only sizes.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = tuple(tensors)
        sizes = [-(-tensor.numel() * tensor.element_size() // ALIGNMENT) * ALIGNMENT for tensor in tensors]
        self._starts = (0, *itertools.accumulate(sizes))
        self.size_bytes = self._starts[-1]
        self.device = tensors[0].device
        self._blanks = [tensor.new_zeros(()).expand(tensor.shape) for tensor in self.tensors]
        self.host: Tensor | None = None
        if self.device.type != "meta":
            self.host = torch.empty(
                self.size_bytes, dtype=torch.uint8, device="cpu", pin_memory=self.device.type == "cuda"
            )
            for tensor, value in zip(self.tensors, self.views(self.host), strict=True):
                value.copy_(tensor.detach())
        self.hide()

    def views(self, memory: Tensor) -> list[Tensor]:
        """The tensors as parts of this memory, (at least size_bytes,) uint8."""
        return [
            memory[start : start + tensor.numel() * tensor.element_size()].view(tensor.dtype).view(tensor.shape)
            for start, tensor in zip(self._starts, self.tensors, strict=False)
        ]

    def show(self, memory: Tensor) -> None:
        """The tensors show this memory."""
        for tensor, view in zip(self.tensors, self.views(memory), strict=True):
            tensor.data = view

    def hide(self) -> None:
        """The tensors show nothing of use."""
        for tensor, blank in zip(self.tensors, self._blanks, strict=True):
            tensor.data = blank

    def restore(self) -> None:
        """The tensors have memory of their own on the device again, with their values."""
        for index, tensor in enumerate(self.tensors):
            value = torch.empty(tensor.shape, dtype=tensor.dtype, device=self.device)
            if self.host is not None:
                value.copy_(self.values()[index])
            tensor.data = value

    def values(self) -> list[Tensor]:
        """The tensors' values in host memory.

        Raises: RuntimeError on `meta`, where there are none.
        """
        if self.host is None:
            raise RuntimeError("a model on meta has no values")
        return self.views(self.host)
