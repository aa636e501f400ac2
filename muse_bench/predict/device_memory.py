"""What the driver gives the caching allocator: limits, segment addresses, and the count of bytes reserved."""

from __future__ import annotations

import sys
from bisect import bisect_left, insort
from collections.abc import Callable

FIRST_ADDRESS = 0x7F00_0000_0000
ALIGNMENT_BYTES = 512
SPACING_BYTES = 2 << 20
UNKNOWN_GPU_BYTES = 1 << 40  # the size taken for a GPU whose capacity is not given


class DeviceMemory:
    """A GPU's memory as the driver hands it out.

    Args:
        capacity_bytes: what there is; None for no end.
        allowed_bytes: the part of it that one process may take; None for all.
        gpu_bytes: the whole GPU, also where less is to be had; None for `capacity_bytes`.
        segment_address: gives a new segment's address from its size; by default they increase by whole 2 MiB.
        segment_removed: is told the address of each segment that goes back to the driver.
    Raises: ValueError from place on an address that is unaligned or taken.
    """

    def __init__(
        self,
        capacity_bytes: int | None = None,
        allowed_bytes: int | None = None,
        gpu_bytes: int | None = None,
        segment_address: Callable[[int], int] | None = None,
        segment_removed: Callable[[int], None] | None = None,
    ) -> None:
        self.capacity_bytes = sys.maxsize if capacity_bytes is None else capacity_bytes
        self.allowed_bytes = sys.maxsize if allowed_bytes is None else allowed_bytes
        self.gpu_bytes = gpu_bytes or capacity_bytes or UNKNOWN_GPU_BYTES
        self.reserved_bytes = self.peak_reserved_bytes = 0
        self._segment_address = segment_address or self._increasing_address
        self._segment_removed = segment_removed or (lambda address: None)
        self._next_address = FIRST_ADDRESS
        self._extents: list[tuple[int, int]] = []  # (address, end) of everything placed, by address

    def may_take(self, size: int) -> bool:
        """Whether the process may reserve that much more."""
        return self.reserved_bytes + size <= self.allowed_bytes

    def has(self, size: int) -> bool:
        """Whether the GPU has that much more."""
        return self.reserved_bytes + size <= self.capacity_bytes

    def reserve(self, change: int) -> None:
        self.reserved_bytes += change
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)

    def place(self, length: int) -> int:
        """The address of a new segment, which is kept until `remove`."""
        address = self._segment_address(length)
        index = bisect_left(self._extents, (address, 0))
        near = self._extents[max(index - 1, 0) : index + 1]
        taken = any(start < address + length and address < end for start, end in near)
        if taken or address <= 0 or address % ALIGNMENT_BYTES:
            raise ValueError(f"segment address {address:#x} for {length} bytes is unaligned or taken")
        insort(self._extents, (address, address + length))
        return address

    def remove(self, address: int) -> None:
        """Forgets the segment that was placed there."""
        del self._extents[bisect_left(self._extents, (address, 0))]
        self._segment_removed(address)

    def _increasing_address(self, length: int) -> int:
        address = self._next_address
        self._next_address += -(-length // SPACING_BYTES) * SPACING_BYTES
        return address
