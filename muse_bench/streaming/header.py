"""The header of a safetensors file: which tensors it holds, of which dtype and shape, and where their bytes lie.

Eight bytes of length, that much JSON, then the tensors without a gap. Source: github.com/huggingface/safetensors.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from muse_bench.errors import UsageError
from muse_bench.streaming.memory import ALIGNMENT

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
LENGTH_BYTES = 8
MOST_HEADER_BYTES = 100_000_000  # the format's own limit
METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file: its bytes are those from start to stop of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def size_bytes(self) -> int:
        """What its values take."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors of a file by name, in the order of their bytes, of which none is missing and none is left over.

    Raises: UsageError for a file that cannot be read, is cut short, or is not of this format.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            text, start = _text(path, file, size)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        parsed = json.loads(text)
        entries = [(name, _entry(path, name, value, start)) for name, value in parsed.items() if name != METADATA]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path}: not a safetensors file: its header makes no sense") from error
    entries.sort(key=lambda item: (item[1].start, item[1].stop))
    _check_extent(path, entries, start, size)
    return dict(entries)


def header_of(tensors: Iterable[tuple[str, Tensor]]) -> bytes:
    """The header of a file of these tensors in this order; spaces at its end have the first one begin aligned.

    Raises: UsageError for a dtype that the format does not have.
    """
    values: dict[str, Any] = {}
    position = 0
    for name, tensor in tensors:
        if tensor.dtype not in NAMES:
            raise UsageError(f"'{name}' is {tensor.dtype}, which a file of weights cannot hold")
        offsets = [position, position := position + tensor.nbytes]
        values[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
    text = json.dumps(values, separators=(",", ":")).encode()
    text += b" " * (-(LENGTH_BYTES + len(text)) % ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _text(path: Path, file: BinaryIO, size: int) -> tuple[bytes, int]:
    """The JSON, and where it ends in the file."""
    length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    start = LENGTH_BYTES + length
    if size < LENGTH_BYTES or start > size or length > MOST_HEADER_BYTES:
        raise UsageError(
            f"{path}: not a safetensors file, or cut short: its header ends at byte {start:,}, the file at {size:,}"
        )
    return file.read(length), start


def _entry(path: Path, name: str, value: Mapping[str, Any], start: int) -> Entry:
    if value["dtype"] not in DTYPES:
        raise UsageError(f"{path}: '{name}' is of dtype {value['dtype']}; known are {', '.join(DTYPES)}")
    first, last = value["data_offsets"]
    if any(type(number) is not int or number < 0 for number in (*value["shape"], first, last)):
        raise ValueError("sizes and offsets are whole numbers from 0")
    entry = Entry(DTYPES[value["dtype"]], tuple(value["shape"]), start + first, start + last)
    if entry.stop - entry.start != entry.size_bytes:
        raise UsageError(f"{path}: '{name}' takes {entry.size_bytes:,} bytes, and its header gives it {last - first:,}")
    return entry


def _check_extent(path: Path, entries: list[tuple[str, Entry]], start: int, size: int) -> None:
    position = start
    for name, entry in entries:
        if entry.start != position:
            raise UsageError(f"{path}: '{name}' begins at byte {entry.start:,}, where {position:,} is wanted")
        position = entry.stop
    if position > size:
        raise UsageError(f"{path}: cut short: it has {size:,} bytes, where its header wants {position:,}")
    if position < size:
        raise UsageError(f"{path}: {size - position:,} bytes follow the last tensor, where none is wanted")
