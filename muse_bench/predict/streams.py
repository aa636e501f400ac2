"""One GPU's memory under several streams: each has blocks of its own, and none takes those that another one freed.

Source: pytorch, c10/cuda/CUDACachingAllocator.cpp: a block is found by its stream.
"""

from collections.abc import Callable

from muse_bench.predict.allocator import CachingAllocator
from muse_bench.predict.block_pool import Block


class Streams:
    """An allocator a stream, made when the stream first takes something; counts are of all of them, in bytes."""

    def __init__(self, make: Callable[[], CachingAllocator]) -> None:
        self._make = make
        self._of: dict[int, CachingAllocator] = {}
        self._blocks: dict[int, tuple[CachingAllocator, Block]] = {}
        self.allocated_bytes = self._reserved = self.peak_reserved_bytes = 0

    def malloc(self, key: int, size_bytes: int, stream: int) -> int:
        """Takes memory on a stream under a key; returns the size of its block. Raises: OutOfMemory."""
        allocator = self._of.get(stream)
        if allocator is None:
            allocator = self._of[stream] = self._make()
        allocated, reserved = allocator.allocated_bytes, allocator.reserved_bytes
        block = allocator.malloc(size_bytes)
        self._blocks[key] = allocator, block
        self.allocated_bytes += allocator.allocated_bytes - allocated
        self._reserved += allocator.reserved_bytes - reserved
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self._reserved)
        return block.size_bytes

    def free(self, key: int) -> None:
        """Gives back what was taken under the key."""
        allocator, block = self._blocks.pop(key)
        allocated, reserved = allocator.allocated_bytes, allocator.reserved_bytes
        allocator.free(block)
        self.allocated_bytes += allocator.allocated_bytes - allocated
        self._reserved += allocator.reserved_bytes - reserved

    def reset_peak(self) -> None:
        """The peak from now on."""
        self.peak_reserved_bytes = self._reserved
