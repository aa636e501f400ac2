"""The bytes that cross the link between host and device: copies say what they move, and those who ask get the sum.

On `meta`, where nothing is copied, they are counted all the same.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Traffic:
    """What crossed, by direction, in bytes."""

    to_device_bytes: int = 0
    to_host_bytes: int = 0

    def __bool__(self) -> bool:
        return self.to_device_bytes > 0 or self.to_host_bytes > 0


_asking: list[Traffic] = []


@contextlib.contextmanager
def counted() -> Iterator[Traffic]:
    """What crosses inside."""
    found = Traffic()
    _asking.append(found)
    try:
        yield found
    finally:
        _asking.remove(found)


def to_device(size_bytes: int) -> None:
    """So many bytes go from the host to the device."""
    for traffic in _asking:
        traffic.to_device_bytes += size_bytes


def to_host(size_bytes: int) -> None:
    """So many bytes go from the device to the host."""
    for traffic in _asking:
        traffic.to_host_bytes += size_bytes
