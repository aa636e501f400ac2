"""Where CUDA's driver puts the segments that the caching allocator asks for.

Addresses decide ties in the allocator's best fit, and with them how much of a segment ends up split or wasted. On an
H200 (driver 580, torch 2.11) the driver takes chunks that are multiples of 32 MiB at decreasing addresses, and first
fills the lowest gap of the chunks that are in use; replaying recorded runs with these addresses gave their peaks.
"""

import collections
from collections.abc import Iterable, Iterator

CHUNK_BYTES = 32 << 20
TOP_ADDRESS = 1 << 45


class DriverAddresses:
    """Addresses for new segments, as the driver would choose them.

    Args:
        recorded: (address, size) of the segments that a recorded run took, in order; they are given out again as long
            as the sizes asked for are the same.
    """

    def __init__(self, recorded: Iterable[tuple[int, int]] = ()) -> None:
        self._recorded = collections.deque(recorded)
        self._chunks: dict[int, tuple[int, dict[int, int]]] = {}  # address -> (size, {address: size} in use)
        self._lowest = TOP_ADDRESS

    def take(self, size_bytes: int) -> int:
        """The address of a new segment of this size."""
        if self._recorded:
            address, recorded_bytes = self._recorded.popleft()
            if recorded_bytes == size_bytes:
                return address
            self._recorded.clear()
            self._lowest = min(self._lowest, address) - (1 << 40)  # well below all that was given out
        for chunk, address, gap in self._gaps():
            if gap >= size_bytes:
                self._chunks[chunk][1][address] = size_bytes
                return address
        size = -(-size_bytes // CHUNK_BYTES) * CHUNK_BYTES
        self._lowest -= size
        self._chunks[self._lowest] = (size, {self._lowest: size_bytes})
        return self._lowest

    def give_back(self, address: int) -> None:
        """Says that a segment was returned; a chunk without any is returned too."""
        for chunk, (_, used) in self._chunks.items():
            if address in used:
                del used[address]
                if not used:
                    del self._chunks[chunk]
                return

    def _gaps(self) -> Iterator[tuple[int, int, int]]:
        """(chunk, address, length) of every gap, the lowest first."""
        for chunk in sorted(self._chunks):
            size, used = self._chunks[chunk]
            place = chunk
            for address in sorted(used):
                if address > place:
                    yield chunk, place, address - place
                place = address + used[address]
            if place < chunk + size:
                yield chunk, place, chunk + size - place
