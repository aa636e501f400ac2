"""Triton kernel: a program unpacks one group of some rows, which have a scale each."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from muse_kernels.int4_unpack.packing import BITS, GROUP, LOW_BITS, PAIR, ZERO
from muse_kernels.products import rounded

VALUES = 4096  # of a program: 32 a thread
GROUP_BYTES = GROUP // PAIR
LOW = tl.constexpr(LOW_BITS)
HIGH = tl.constexpr(BITS)
CENTRE = tl.constexpr(float(ZERO))


def unpack(packed: Tensor, scale: Tensor, weight: Tensor) -> None:
    """Fills weight (out_features, in_features), contiguous."""
    columns = weight.shape[1]
    block_rows = VALUES // GROUP
    with torch.cuda.device_of(weight):
        _unpack[(triton.cdiv(packed.shape[0], block_rows), scale.shape[1])](
            *(packed, scale, weight, *packed.shape, columns, *packed.stride(), *scale.stride()),
            ROWS=block_rows,
            BYTES=GROUP_BYTES,
            num_warps=4,
        )


@triton.jit
def _unpack(
    packed,
    scale,
    weight,
    rows,
    row_bytes,
    columns,
    packed_row,
    packed_column,
    scale_row,
    scale_column,
    ROWS: tl.constexpr,
    BYTES: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    group = tl.program_id(1).to(tl.int64)
    byte = group * BYTES + tl.arange(0, BYTES)
    column = group * (2 * BYTES) + tl.arange(0, 2 * BYTES)
    has_row = row < rows
    # A mask by bytes and one by values: an odd row ends in the middle of a byte.
    inside = has_row[:, None] & (byte < row_bytes)[None, :]
    place = (row * packed_row)[:, None] + (byte * packed_column)[None, :]
    pairs = tl.load(packed + place, mask=inside, other=0).to(tl.int32)
    values = tl.interleave(pairs & LOW, pairs >> HIGH).to(tl.float32) - CENTRE
    factor = tl.load(scale + row * scale_row + group * scale_column, mask=has_row, other=0.0).to(tl.float32)
    scaled = rounded(values * factor[:, None], weight.dtype.element_ty)
    mask = has_row[:, None] & (column < columns)[None, :]
    tl.store(weight + (row * columns)[:, None] + column[None, :], scaled, mask=mask)
