"""Second stage of a deterministic reduction: the sum of rows that programs left in scratch, in one launch.

Imports Triton: import it only where a kernel is about to be launched.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from muse_kernels.products import rounded

MAX_TILE = 4096


def sum_partials(partial: Tensor, *outputs: Tensor) -> None:
    """Writes the sum over the rows of partial (count, n), float32, into up to three contiguous outputs.

    The outputs are filled one after the other from the columns, rounded to their dtype; their sizes sum to n.
    """
    count, n = partial.shape
    padded = (*outputs, *[outputs[0]] * (3 - len(outputs)))
    ends = [sum(output.numel() for output in outputs[:stop]) for stop in (1, 2)]
    block_rows, block = sum_blocks(count, n)
    with torch.cuda.device_of(partial):
        _sum_rows[(triton.cdiv(n, block),)](partial, *padded, count, n, *ends, block_rows, block)


def sum_blocks(count: int, n: int) -> tuple[int, int]:
    """Rows and columns of a tile: narrow where there are few columns, so that several programs share the work."""
    block = 32 if n <= 32 * 1024 else 256
    return min(triton.next_power_of_2(count), MAX_TILE // block), block


@triton.jit
def _sum_rows(
    partial, first, second, third, count, n, first_end, second_end, BLOCK_ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < n
    total = tl.zeros((BLOCK_ROWS, BLOCK), tl.float32)
    for start in range(0, count, BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS).to(tl.int64)
        offsets = row[:, None] * n + column[None, :]
        total += tl.load(partial + offsets, mask=(row < count)[:, None] & inside[None, :], other=0.0)
    value = tl.sum(total, axis=0)
    tl.store(first + column, rounded(value, first.dtype.element_ty), mask=column < first_end)
    in_second = (column >= first_end) & (column < second_end)
    tl.store(second + column - first_end, rounded(value, second.dtype.element_ty), mask=in_second)
    in_third = (column >= second_end) & inside
    tl.store(third + column - second_end, rounded(value, third.dtype.element_ty), mask=in_third)
