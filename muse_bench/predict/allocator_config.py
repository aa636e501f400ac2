"""The allocator's settings, and the sizes that they give to blocks and segments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MIB = 1 << 20
MIN_BLOCK_BYTES = 512  # every block is a multiple of it
SMALL_BYTES = 1 * MIB  # the largest rounded request that the small pool serves
SMALL_SEGMENT_BYTES = 2 * MIB
MIN_LARGE_BYTES = 10 * MIB  # from here a request gets a segment of its own size
ROUND_LARGE_BYTES = 2 * MIB  # rounded up to a multiple of this


@dataclass(frozen=True, slots=True)
class AllocatorConfig:
    """The settings of PYTORCH_ALLOC_CONF that decide where blocks go; the defaults are PyTorch's.

    `garbage_collection_threshold` acts only under `allowed_bytes`, as it does upstream.
    Raises: ValueError on a value that PyTorch refuses.
    """

    expandable_segments: bool = False
    max_split_size_bytes: int | None = None  # None: blocks of any size may be split
    max_non_split_rounding_bytes: int = 20 * MIB
    large_segment_bytes: int = 20 * MIB
    roundup_power2_divisions: int = 0
    garbage_collection_threshold: float = 0.0

    def __post_init__(self) -> None:
        least, divisions = self.large_segment_bytes, self.roundup_power2_divisions
        if least <= MIN_LARGE_BYTES or least % MIB:
            raise ValueError("large_segment_size_mb must be whole and above 10")
        if self.max_split_size_bytes is not None and self.max_split_size_bytes < least:
            raise ValueError(f"max_split_size_mb must be at least {least // MIB}")
        if self.max_non_split_rounding_bytes < min(least, 20 * MIB):
            raise ValueError(f"max_non_split_rounding_mb must be at least {min(least // MIB, 20)}")
        if divisions < 0 or divisions & (divisions - 1):
            raise ValueError("roundup_power2_divisions must be 0 or a power of two")
        if not 0 <= self.garbage_collection_threshold < 1:
            raise ValueError("garbage_collection_threshold must lie between 0 and 1")

    def block_bytes(self, size_bytes: int) -> int:
        """The block for a request: a multiple of 512, or the next division between two powers of two."""
        divisions = self.roundup_power2_divisions
        if divisions > 1 and size_bytes > MIN_BLOCK_BYTES * divisions:
            return _round_up(size_bytes, (1 << (size_bytes.bit_length() - 1)) // divisions)
        return _round_up(size_bytes, MIN_BLOCK_BYTES)

    def segment_bytes(self, size: int) -> int:
        """What `cudaMalloc` is asked for when a block of `size` needs a new segment."""
        if size <= SMALL_BYTES:
            return SMALL_SEGMENT_BYTES
        return self.large_segment_bytes if size < MIN_LARGE_BYTES else _round_up(size, ROUND_LARGE_BYTES)

    @classmethod
    def from_environment_string(cls, text: str) -> AllocatorConfig:
        """The settings in a text such as 'expandable_segments:True,max_split_size_mb:128'.

        Raises: ValueError that names a key that is unknown or not simulated, or whose value is refused.
        """
        values: dict[str, Any] = {}
        for item in filter(None, "".join(text.split()).split(",")):
            key, _, value = item.partition(":")
            if key not in _OPTIONS:
                raise ValueError(f"allocator setting '{key}' is unknown or not simulated")
            field, parse = _OPTIONS[key]
            try:
                values[field] = parse(value)
            except (KeyError, ValueError):
                raise ValueError(f"allocator setting '{key}' does not take '{value}' here") from None
        values.pop("backend", None)
        return cls(**values)


def _mebibytes(text: str) -> int:
    return int(text) * MIB


_OPTIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "backend": ("backend", {"native": "native"}.__getitem__),
    "expandable_segments": ("expandable_segments", {"True": True, "False": False}.__getitem__),
    "max_split_size_mb": ("max_split_size_bytes", _mebibytes),
    "max_non_split_rounding_mb": ("max_non_split_rounding_bytes", _mebibytes),
    "large_segment_size_mb": ("large_segment_bytes", _mebibytes),
    "roundup_power2_divisions": ("roundup_power2_divisions", int),
    "garbage_collection_threshold": ("garbage_collection_threshold", float),
}


def _round_up(size: int, step: int) -> int:
    return (size + step - 1) // step * step
