"""How many rows a chunk holds, so that its scratch stays near a budget of bytes."""

from collections.abc import Iterator

# The caching allocator serves requests of up to 1 MiB from shared 2 MiB segments: less scratch saves nothing.
MIN_SCRATCH_BYTES = 1 << 20


def chunk_length(length: int, item_bytes: int, budget_bytes: int, multiple: int = 1) -> int:
    """ceil(max(budget, MIN_SCRATCH_BYTES) / item_bytes), rounded up to the multiple, within [1, length]."""
    items = _ceil_divide(max(budget_bytes, MIN_SCRATCH_BYTES), max(item_bytes, 1))
    return max(1, min(length, _ceil_divide(items, multiple) * multiple))


def slices(length: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most this size that cover [0, length)."""
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _ceil_divide(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)
