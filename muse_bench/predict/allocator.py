"""PyTorch's CUDA caching allocator, simulated: allocations and frees in, allocated and reserved bytes out.

It follows the native backend of torch 2.11 to 2.13 on one stream, without private pools. The three counts are
those of `torch.cuda.memory_stats`: `allocated` sums whole blocks, `requested` what was asked for, `reserved`
the segments. Best fit breaks ties by address, so an exact replay of a recorded run needs that run's segment
addresses; the default ones only increase, unlike a driver's. At recorded addresses, random steps under eight
settings, with limits and without, gave the three counts of an H200 (torch 2.11) after each of 30,000 steps.

Source: pytorch, c10/cuda/CUDACachingAllocator.cpp (DeviceCachingAllocator) and c10/core/AllocatorConfig.cpp.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from muse_bench.predict.allocator_config import (
    MIN_BLOCK_BYTES,
    SMALL_BYTES,
    SMALL_SEGMENT_BYTES,
    AllocatorConfig,
)
from muse_bench.predict.block_pool import Block, BlockPool, Node, Segment
from muse_bench.predict.device_memory import DeviceMemory
from muse_bench.predict.expandable import least_expandable, return_pages, take_pages

__all__ = [
    "AllocatorConfig",
    "Block",
    "BlockPool",
    "CachingAllocator",
    "Event",
    "OutOfMemory",
    "ReplayResult",
    "Segment",
    "replay",
]

DEFAULTS = AllocatorConfig()
NO_BLOCK = Block(0, 0, 0)  # what a request for zero bytes gets


class OutOfMemory(Exception):  # noqa: N818 - says what happened
    """A request that does not fit even after the cached memory was returned; `requested_bytes` is rounded."""

    def __init__(self, requested_bytes: int, allocated_bytes: int, reserved_bytes: int, capacity_bytes: int) -> None:
        super().__init__(
            f"{requested_bytes} bytes do not fit:"
            f" {allocated_bytes} are allocated and {reserved_bytes} reserved of {capacity_bytes}"
        )
        self.requested_bytes = requested_bytes
        self.allocated_bytes = allocated_bytes
        self.reserved_bytes = reserved_bytes
        self.capacity_bytes = capacity_bytes


class CachingAllocator:
    """A GPU's memory as PyTorch hands it out; the counters are in bytes.

    Args:
        config: the allocator's settings.
        capacity_bytes: what the driver can give in all; None for no end.
        allowed_bytes: the limit that `torch.cuda.set_per_process_memory_fraction` sets; None for none.
        gpu_bytes: all memory of the GPU, of which an expandable segment's address space is 9/8; by default
            `capacity_bytes`.
        segment_address: gives a new segment's address from its size; by default they increase by whole 2 MiB.
        segment_removed: is told the address of each segment that goes back to the driver.
    Raises: OutOfMemory from malloc; ValueError on a negative size, on a free of a block that is not live, and
        on a segment address that is unaligned or taken.
    """

    def __init__(
        self,
        config: AllocatorConfig = DEFAULTS,
        *,
        capacity_bytes: int | None = None,
        allowed_bytes: int | None = None,
        gpu_bytes: int | None = None,
        segment_address: Callable[[int], int] | None = None,
        segment_removed: Callable[[int], None] | None = None,
    ) -> None:
        self.config = config
        self.allocated_bytes = self.peak_allocated_bytes = 0
        self.requested_bytes = self.peak_requested_bytes = 0
        self._memory = DeviceMemory(capacity_bytes, allowed_bytes, gpu_bytes, segment_address, segment_removed)
        self._max_split = config.max_split_size_bytes or sys.maxsize
        self._collects = config.garbage_collection_threshold > 0
        self._live: dict[int, Node] = {}  # allocated, by address
        self._small = BlockPool(
            is_small=True,
            least_remainder=MIN_BLOCK_BYTES,
            split_below=sys.maxsize,
            page_bytes=SMALL_SEGMENT_BYTES,
        )
        self._large = BlockPool(
            is_small=False,
            least_remainder=MIN_BLOCK_BYTES if config.expandable_segments else SMALL_BYTES + 1,
            split_below=sys.maxsize if config.expandable_segments else self._max_split,
            page_bytes=config.large_segment_bytes,
        )

    @property
    def reserved_bytes(self) -> int:
        return self._memory.reserved_bytes

    @property
    def peak_reserved_bytes(self) -> int:
        return self._memory.peak_reserved_bytes

    def malloc(self, size_bytes: int) -> Block:
        """A block for `size_bytes`: the best fit among the free ones, else from new memory."""
        if size_bytes <= 0:
            if size_bytes < 0:
                raise ValueError(f"cannot allocate {size_bytes} bytes")
            return NO_BLOCK
        size = self.config.block_bytes(size_bytes)
        pool = self._small if size <= SMALL_BYTES else self._large
        node = self._best_fit(pool, size) or self._grow(pool, size)
        if node.size - size >= pool.least_remainder and size < pool.split_below:
            pool.insert(node.cut(size))
        node.block = block = Block(node.address, node.size, size_bytes)
        self._live[node.address] = node
        self.requested_bytes += size_bytes
        self.allocated_bytes += node.size
        self.peak_requested_bytes = max(self.peak_requested_bytes, self.requested_bytes)
        self.peak_allocated_bytes = max(self.peak_allocated_bytes, self.allocated_bytes)
        return block

    def free(self, block: Block) -> None:
        """Returns a block to its pool, merged with its free neighbours; a zero-byte block needs no return."""
        if block is NO_BLOCK:
            return
        node = self._live.get(block.address)
        if node is None or node.block is not block:
            raise ValueError(f"the block at {block.address:#x} is not live, or of another allocator")
        del self._live[block.address]
        self.allocated_bytes -= node.size
        self.requested_bytes -= block.requested_bytes
        node.block = None
        node.merge()
        node.pool.insert(node)

    def empty_cache(self) -> None:
        """Returns every wholly free segment (expandable: every wholly free page) to the driver."""
        for pool in (self._large, self._small):
            if self.config.expandable_segments:
                return_pages(self._memory, pool)
            else:
                for node in pool.unsplit():
                    self._release(node)

    def reset_peaks(self) -> None:
        """Sets each peak to what is current, as `torch.cuda.reset_peak_memory_stats` does."""
        self.peak_allocated_bytes = self.allocated_bytes
        self.peak_requested_bytes = self.requested_bytes
        self._memory.peak_reserved_bytes = self._memory.reserved_bytes

    def segments(self) -> tuple[Segment, ...]:
        """All segments by address, with their blocks, free ones included."""
        nodes = [*self._live.values(), *self._small.free.values(), *self._large.free.values()]
        heads = [node for node in nodes if node.prev is None or not node.prev.mapped]
        return tuple(head.segment() for head in sorted(heads, key=lambda node: node.address))

    def _best_fit(self, pool: BlockPool, size: int) -> Node | None:
        """Takes out the smallest free block that fits, unless max_split_size keeps it for other sizes."""
        pool.searches += 1
        order = pool.order
        index = bisect_left(order, (size, 0))
        if index == len(order):
            return None
        if self.config.expandable_segments:
            index = least_expandable(pool, index)
        found, address = order[index]
        if found >= self._max_split and size < self._max_split:
            return None
        if size >= self._max_split and found >= size + self.config.max_non_split_rounding_bytes:
            return None
        del order[index]
        return pool.free.pop(address)

    def _grow(self, pool: BlockPool, size: int) -> Node:
        """A block from new memory; where a limit is in the way, cached memory is returned first."""
        if self._collects:
            self._collect_garbage()
        node = self._take(pool, size)
        if node is None and self._release_oversize(pool, size):
            node = self._take(pool, size)
        if node is None:
            self.empty_cache()
            node = self._take(pool, size)
        if node is None:
            limit = min(self._memory.capacity_bytes, self._memory.allowed_bytes)
            raise OutOfMemory(size, self.allocated_bytes, self.reserved_bytes, limit)
        return node

    def _take(self, pool: BlockPool, size: int) -> Node | None:
        """New memory as one block; None where a limit is in the way."""
        length = self.config.segment_bytes(size)
        if not self._memory.may_take(length):
            return None
        if self.config.expandable_segments:
            return take_pages(self._memory, pool, size)
        if not self._memory.has(length):
            return None
        address = self._memory.place(length)
        self._memory.reserve(length)
        return Node(address, length, pool, address)

    def _release(self, node: Node) -> None:
        """Returns a free block that is a whole segment."""
        node.pool.remove(node)
        self._memory.remove(node.address)
        self._memory.reserve(-node.size)

    def _release_oversize(self, pool: BlockPool, size: int) -> bool:
        """Under max_split_size, returns one oversize block that suffices, or the largest until they do."""
        if self.config.max_split_size_bytes is None or self.config.expandable_segments:
            return False
        wanted = max(size, self._max_split)
        index = bisect_left(pool.order, (wanted, 0))
        if index < len(pool.order):
            self._release(pool.free[pool.order[index][1]])
            return True
        while wanted > 0 and pool.order and pool.order[-1][0] >= self._max_split:
            wanted -= pool.order[-1][0]
            self._release(pool.free[pool.order[-1][1]])
        return wanted <= 0

    def _collect_garbage(self) -> None:
        """Returns the large segments that lay free the longest, until `reserved` is under the threshold."""
        threshold = int(self.config.garbage_collection_threshold * self._memory.allowed_bytes)
        surplus = self.reserved_bytes - threshold
        now, idle = self._large.searches, self._large.unsplit()
        while surplus > 0 and idle:
            mean_age = sum(now - node.born for node in idle) / len(idle)
            for node in [node for node in idle if now - node.born >= mean_age]:
                surplus -= node.size
                idle.remove(node)
                self._release(node)


class Event(NamedTuple):
    """One step of a replay; only "alloc" and "free" use a key, and only "alloc" a size."""

    kind: Literal["alloc", "free", "empty_cache", "reset_peaks"]
    key: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """Peaks and what was left at the end; `timeline`, where asked for, is `allocated` after each event."""

    peak_allocated_bytes: int
    peak_requested_bytes: int
    peak_reserved_bytes: int
    allocated_bytes: int
    requested_bytes: int
    reserved_bytes: int
    timeline: tuple[int, ...] | None = None


def replay(
    events: Iterable[Event], allocator: CachingAllocator | None = None, *, keep_timeline: bool = False
) -> ReplayResult:
    """Plays events on an allocator, by default a fresh one with PyTorch's settings and no limit.

    Raises: OutOfMemory; ValueError on an event that does not fit those before it.
    """
    allocator = allocator or CachingAllocator()
    blocks: dict[int, Block] = {}
    timeline: list[int] = []
    for kind, key, size_bytes in events:
        if kind == "alloc" and key not in blocks:
            blocks[key] = allocator.malloc(size_bytes)
        elif kind == "free" and key in blocks:
            allocator.free(blocks.pop(key))
        elif kind == "empty_cache":
            allocator.empty_cache()
        elif kind == "reset_peaks":
            allocator.reset_peaks()
        else:
            raise ValueError(f"event '{kind}' of key {key}: no such kind, or the key is live, or it is not")
        if keep_timeline:
            timeline.append(allocator.allocated_bytes)
    return ReplayResult(
        peak_allocated_bytes=allocator.peak_allocated_bytes,
        peak_requested_bytes=allocator.peak_requested_bytes,
        peak_reserved_bytes=allocator.peak_reserved_bytes,
        allocated_bytes=allocator.allocated_bytes,
        requested_bytes=allocator.requested_bytes,
        reserved_bytes=allocator.reserved_bytes,
        timeline=tuple(timeline) if keep_timeline else None,
    )
