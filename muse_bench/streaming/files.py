"""Weights in a safetensors file: saved whole or not at all, checked before any byte is copied, and mapped as pages."""

import ctypes
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor

from muse_bench.errors import UsageError
from muse_bench.streaming.header import Entry, header_of, read_header
from muse_bench.streaming.memory import ALIGNMENT
from muse_bench.streaming.page import Page, page_starts

NamedPage = tuple[Page, Sequence[str]]  # with the names of its tensors


def save_weights(path: Path, tensors: Mapping[str, Tensor], pages: Sequence[NamedPage] = ()) -> None:
    """Writes the tensors to a file; those of pages together, so that `map_weights` can map what it finds aligned.

    Raises: UsageError for a place that cannot be written, or a dtype that the format does not have.
    """
    _settle()
    ordered = [(name, tensors[name]) for name in _order(tensors, pages)]
    header = header_of(ordered)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(header)
            for _, tensor in ordered:
                file.write(_bytes(tensor.detach().cpu().contiguous()))
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def load_weights(path: Path, wanted: Mapping[str, Tensor]) -> None:
    """Copies every tensor of the file to its place, such as `state_dict` names them.

    Raises: UsageError, before any byte is copied, unless the file holds these tensors, of this dtype and shape, alone.
    """
    entries = read_header(path)
    _check(path, entries, wanted)
    _copy(path, entries, wanted)


def map_weights(path: Path, wanted: Mapping[str, Tensor], pages: Sequence[NamedPage]) -> int:
    """As `load_weights`, but pages whose tensors lie in the file as they do in memory are the file from here on.

    Such a page takes memory only for what is written to it, which the file never sees; the system reads the rest when
    it is asked for, and may drop it again. It is not registered with CUDA: copies are slower, no graph can hold them,
    and a GPU cannot read it by itself. The file must not be cut short while it is in use.
    Returns: the bytes that are mapped. Raises: as `load_weights`.
    """
    entries = read_header(path)
    _check(path, entries, wanted)
    fitting = [(page, names) for page, names in pages if _fits(page, [entries[name] for name in names])]
    mapped = {name for _, names in fitting for name in names}
    _copy(path, {name: entry for name, entry in entries.items() if name not in mapped}, wanted)
    if fitting:
        buffer = _mapping(path)
        for page, names in fitting:
            page.adopt(
                torch.frombuffer(buffer, dtype=torch.uint8, offset=entries[names[0]].start, count=page.size_bytes)
            )
    return sum(page.size_bytes for page, _ in fitting)


def _check(path: Path, entries: Mapping[str, Entry], wanted: Mapping[str, Tensor]) -> None:
    for name, tensor in wanted.items():
        there, here = entries.get(name), _described(tensor.dtype, tensor.shape)
        found = "is missing" if there is None else f"is {_described(there.dtype, there.shape)}"
        if there is None or there.dtype != tensor.dtype or there.shape != tuple(tensor.shape):
            raise UsageError(f"{path}: '{name}' {found}, where {here} is wanted")
    for name, entry in entries.items():
        if name not in wanted:
            raise UsageError(f"{path}: '{name}' is {_described(entry.dtype, entry.shape)}, where no such is wanted")


def _copy(path: Path, entries: Mapping[str, Entry], wanted: Mapping[str, Tensor]) -> None:
    _settle()
    with open(path, "rb", buffering=0) as file:
        for name, entry in entries.items():
            target = wanted[name].detach()
            straight = target.device.type == "cpu" and target.is_contiguous()
            values = target if straight else torch.empty(entry.shape, dtype=entry.dtype)
            _read(path, cast(BinaryIO, file), entry.start, _bytes(values))
            if not straight:
                target.copy_(values)


def _read(path: Path, file: BinaryIO, start: int, memory: memoryview) -> None:
    file.seek(start)
    while memory:
        count = file.readinto(memory)  # type: ignore[attr-defined]
        if not count:
            raise UsageError(f"{path}: was cut short while it was read: the weights are incomplete")
        memory = memory[count:]


def _fits(page: Page, entries: Sequence[Entry]) -> bool:
    """Whether they lie as the page has them, with nothing between them or behind that belongs to another."""
    first = entries[0].start
    borders = (*(entry.start - first for entry in entries), entries[-1].stop - first)
    return page.host is not None and first % ALIGNMENT == 0 and borders == page.starts


def _order(tensors: Mapping[str, Tensor], pages: Sequence[NamedPage]) -> Iterator[str]:
    """Pages first of which each tensor fills its place, since what follows them is aligned too; then all others."""
    aligned = [names for page, names in pages if _is_aligned(page)]
    together = dict.fromkeys(name for names in aligned for name in names)
    yield from together
    yield from (name for name in tensors if name not in together)


def _is_aligned(page: Page) -> bool:
    return page_starts(page.tensors)[-1] == sum(tensor.nbytes for tensor in page.tensors)


def _mapping(path: Path) -> ctypes.Array[ctypes.c_char]:
    with open(path, "rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return (ctypes.c_char * len(mapping)).from_buffer(mapping)


def _bytes(tensor: Tensor) -> memoryview:
    """Those of a contiguous tensor on the CPU, which share its memory."""
    return tensor.view(-1).view(torch.uint8).numpy().data


def _described(dtype: torch.dtype, shape: Sequence[int]) -> str:
    return f"{str(dtype).removeprefix('torch.')} {tuple(shape)}"


def _settle() -> None:
    """Copies to host memory that a step has begun are whole."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
