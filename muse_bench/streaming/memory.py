"""Host memory for pages: exactly as much as they take, mapped at once, and registered with CUDA piece by piece."""

import contextlib
import ctypes
import itertools
import mmap
import os
import shutil
import sys
import tempfile
import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from muse_bench.errors import HostMemoryShort
from muse_bench.host_memory import available_bytes
from muse_bench.streaming.registration import NotRegistered, Registration
from muse_bench.units import GIB, format_bytes

ALIGNMENT = 512  # bytes, as the allocator has it
# Tables of the kernel, of the driver and of the GPU for each page of the system, of 8 bytes an entry.
TABLES_BYTES_PER_PAGE = 4 * 8
LEFT_BYTES = GIB  # to the rest of the machine, or as much as is asked for where that is less
# MAP_NORESERVE, which Python names from 3.13 on: else the kernel refuses more than the memory that it knows of.
NOT_COUNTED = 0x4000 if sys.platform == "linux" else 0

Buffer = ctypes.Array[ctypes.c_char]
Progress = Callable[[int, int], None]  # bytes that are ready, bytes in all


@dataclass(frozen=True, slots=True)
class Layout:
    """Where blocks of some sizes begin, and the pieces, each (start, stop), that are registered one by one."""

    starts: tuple[int, ...]
    pieces: tuple[tuple[int, int], ...]

    @property
    def size_bytes(self) -> int:
        """What is mapped."""
        return self.pieces[-1][1]


@dataclass(frozen=True, slots=True)
class HostRoom:
    """What host memory a model may have: how much, where the kernel is not asked; or a folder, for a file instead."""

    total_bytes: int | None = None
    folder: Path | None = None


ANY_ROOM = HostRoom()


def lay_out(sizes: Sequence[int], piece_bytes: int) -> Layout:
    """Blocks one after another; no copy may cross from one piece to the next, so a block lies in one, however large.

    Raises: ValueError for no block, or one of no bytes.
    """
    if not sizes or min(sizes) < 1:
        raise ValueError(f"blocks of host memory take at least a byte each, not {list(sizes)}")
    starts, borders, position = [], [0], 0
    for size in sizes:
        start = _rounded(position, ALIGNMENT)
        if start > borders[-1] and start + size - borders[-1] > piece_bytes:
            start = _rounded(position, mmap.PAGESIZE)
            borders.append(start)
        starts.append(start)
        position = start + size
    borders.append(_rounded(position, mmap.PAGESIZE))
    return Layout(tuple(starts), tuple(itertools.pairwise(borders)))


class HostMemory:
    """Blocks of host memory, (size_bytes,) uint8 on the CPU, that a GPU reads and writes by itself.

    A block keeps what it lies in mapped and registered, also when this object is gone, until `close`. From then on
    no GPU may be told to use it, in a captured graph neither.

    With a folder, blocks lie in a file there which has no name and goes with them. They are not registered: that would
    hold all of it in memory. Copies then pass through memory of the driver, slower, and no graph can hold them.
    With `total_bytes`, all blocks together may take that much, whatever the kernel says: it may know of less.
    On a machine with several memory nodes a page lies near the thread that first touches it, so near those of torch.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        folder: Path | None = None,
        total_bytes: int | None = None,
        piece_bytes: int = GIB,
    ) -> None:
        self._device, self._folder, self._total_bytes, self._piece_bytes = device, folder, total_bytes, piece_bytes
        self._free: dict[int, list[Tensor]] = defaultdict(list)
        self._mapped: list[tuple[weakref.finalize[[], Buffer], int]] = []

    @property
    def size_bytes(self) -> int:
        """What is mapped at present, which is what is registered too where it is for a GPU."""
        return sum(size for finalizer, size in self._mapped if finalizer.alive)

    def reserve(self, sizes: Sequence[int], progress: Progress | None = None) -> None:
        """Makes blocks of these sizes ready to be taken, in one mapping: all, or on any error and interrupt none.

        Raises: HostMemoryShort before anything is mapped, or when the kernel or CUDA refuses; ValueError for no bytes.
        """
        layout = lay_out(sizes, self._piece_bytes)
        self._check(layout.size_bytes)
        buffer = self._map(layout.size_bytes)
        registration = Registration(self._device)
        finalizer = weakref.finalize(buffer, registration.undo)
        finalizer.atexit = False  # the end of the process does it too, and at once
        try:
            for start, stop in layout.pieces:
                if self._registers:
                    _block(buffer, start, stop - start).zero_()  # by all threads: else CUDA touches page after page
                    registration.add(ctypes.addressof(buffer) + start, stop - start)
                if progress is not None:
                    progress(stop, layout.size_bytes)
        except BaseException as error:
            finalizer()
            del buffer  # which the error's traceback would keep
            if isinstance(error, NotRegistered):
                found = f"CUDA registered {format_bytes(start)}, then refused: {error}"
                raise short(layout.size_bytes, self._available(), start, found) from None
            raise
        self._mapped = [(other, size) for other, size in self._mapped if other.alive]
        self._mapped.append((finalizer, layout.size_bytes))
        for start, size in zip(layout.starts, sizes, strict=True):
            self._free[size].append(_block(buffer, start, size))

    def take(self, size_bytes: int) -> Tensor:
        """A block that nobody has, of what is reserved or of a mapping of its own. Raises: as `reserve`."""
        if not self._free[size_bytes]:
            self.reserve([size_bytes])
        return self._free[size_bytes].pop(0)

    def close(self) -> None:
        """Nothing is registered; what nobody has a block of is unmapped, and the rest when its last block goes."""
        self._free.clear()
        while self._mapped:
            self._mapped[-1][0]()
            self._mapped.pop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _registers(self) -> bool:
        return self._device.type == "cuda" and self._folder is None

    def _check(self, needed: int) -> None:
        """Before the kernel finds out by ending a process."""
        available = self._available()
        if available is None:
            return
        fitting = available if self._given else self._leaving_room(available, needed)
        if needed > fitting:
            found = f"{format_bytes(available)} {'left of what was given' if self._given else 'available'}"
            raise short(needed, available, fitting, found)

    def _leaving_room(self, available: int, needed: int) -> int:
        """What of it blocks may take."""
        margin = min(LEFT_BYTES, needed) if self._folder is None else 0
        tables = TABLES_BYTES_PER_PAGE if self._registers else 0
        return max(0, (available - margin) * mmap.PAGESIZE // (mmap.PAGESIZE + tables))

    @property
    def _given(self) -> bool:
        return self._folder is None and self._total_bytes is not None

    def _available(self) -> int | None:
        if self._folder is not None:
            return shutil.disk_usage(self._folder).free
        return available_bytes() if self._total_bytes is None else max(0, self._total_bytes - self.size_bytes)

    def _map(self, size_bytes: int) -> Buffer:
        try:
            if self._folder is None:
                mapping = _anonymous(size_bytes, NOT_COUNTED if self._given else 0)
            else:
                mapping = _in_file(size_bytes, self._folder)
        except OSError as error:
            raise short(size_bytes, self._available(), None, f"the system refused: {error.strerror}") from None
        return (ctypes.c_char * size_bytes).from_buffer(mapping)


def short(needed: int, available: int | None, fitting: int | None, found: str) -> HostMemoryShort:
    """The error: what is needed, what was found, what would fit, and what to do."""
    room = "" if fitting is None else f", and {format_bytes(fitting)} would fit"
    return HostMemoryShort(
        f"host memory is short: {format_bytes(needed)} needed, {found}{room}: "
        "choose a smaller model or fewer bits a weight, free memory, or say with --host-memory how much there is",
        needed_bytes=needed,
        available_bytes=available,
        fitting_bytes=fitting,
    )


def _rounded(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _block(buffer: Buffer, start: int, size_bytes: int) -> Tensor:
    """A tensor with a storage of its own, which is what PyTorch asks when it asks whether memory is pinned."""
    return torch.frombuffer(buffer, dtype=torch.uint8, offset=start, count=size_bytes)


def _anonymous(size_bytes: int, flags: int) -> mmap.mmap:
    mapping = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | flags)
    with contextlib.suppress(AttributeError, OSError):  # a kernel without huge pages
        mapping.madvise(mmap.MADV_HUGEPAGE)
    return mapping


def _in_file(size_bytes: int, folder: Path) -> mmap.mmap:
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, size_bytes)  # else a full disk would show as a signal, when it is written
        return mmap.mmap(file.fileno(), size_bytes)
