"""Second stage of the cores' gradients: sums of the shares that programs left in scratch, the rotation undone.

Each key (a row of a core) owns consecutive rows of shares: a fixed count, or the pieces of its sorted tokens.
Imports Triton: import it only where a kernel is about to be launched.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from muse_kernels.products import rounded

MAX_TILE = 4096


def launch_sum_shares(
    shares: tuple[Tensor, Tensor, Tensor],
    theta: Tensor,
    gradients: tuple[Tensor, Tensor, Tensor],
    counts: tuple[int, int, int],
    sorted_by: tuple[Tensor, int] | None = None,
) -> None:
    """Fills the gradients of core1, core2 and theta, each contiguous, in one launch.

    Args:
        shares: of core1 (rows, rank, d1), of the rotated core2 (rows, rank, d2), and of its product with core2
            (rows, rank); contiguous float32.
        counts: rows that each key of core1 and of core2 owns, and rows of theta's shares.
        sorted_by: starts (2, bins), int32, and the length of a piece: then a key owns ceil(tokens / piece) rows,
            and counts holds theta's rows a piece instead (its first two are unused).
    """
    (v1, rank, d1), (v2, _, d2) = gradients[0].shape, gradients[1].shape
    starts, piece = sorted_by or (shares[0], 1)
    block = min(triton.next_power_of_2(rank * max(d1, d2)), 512)
    ranks = triton.next_power_of_2(rank)
    with torch.cuda.device_of(theta):
        _sum_shares[(v1 + v2 + 1, triton.cdiv(rank * max(d1, d2), block))](
            *(*shares, theta, starts, *gradients, *counts, piece),
            V1=v1,
            V2=v2,
            RANK=rank,
            D1=d1,
            D2=d2,
            SORTED=sorted_by is not None,
            BINS=starts.shape[1] if sorted_by is not None else 1,
            ROWS=MAX_TILE // block,
            BLOCK=block,
            THETA_ROWS=max(1, MAX_TILE // ranks),
            RANKS=ranks,
            num_warps=4,
        )


@triton.jit
def count_pieces(starts, piece, V: tl.constexpr, BINS: tl.constexpr):
    """Pieces of each key, at most `piece` tokens each; starts holds where each key's sorted tokens begin."""
    key = tl.arange(0, BINS)
    start = tl.load(starts + key, mask=key < V, other=0)
    stop = tl.load(starts + key + 1, mask=key < V, other=0)
    return tl.cdiv(stop - start, piece)


@triton.jit
def _own_rows(starts, piece, key, count, V: tl.constexpr, SORTED: tl.constexpr, BINS: tl.constexpr):
    """The first row of a key's shares, and how many they are."""
    if SORTED:
        pieces = count_pieces(starts, piece, V, BINS)
        first = tl.sum(tl.where(tl.arange(0, BINS) < key, pieces, 0), axis=0)
        count = tl.sum(tl.where(tl.arange(0, BINS) == key, pieces, 0), axis=0)
    else:
        first = key * count
    return first.to(tl.int64), count


@triton.jit
def _sum_rows(shares, first, count, column, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Sum of the rows [first, first + count) of shares (rows, WIDTH), in these columns."""
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in range(0, count, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < count)[:, None] & (column < WIDTH)[None, :]
        total += tl.load(shares + (first + row)[:, None] * WIDTH + column[None, :], mask=inside, other=0.0)
    return tl.sum(total, axis=0)


@triton.jit
def _sum_shares(
    shares1,
    shares2,
    theta_shares,
    theta,
    starts,
    grad_core1,
    grad_core2,
    grad_theta,
    count1,
    count2,
    theta_count,
    piece,
    V1: tl.constexpr,
    V2: tl.constexpr,
    RANK: tl.constexpr,
    D1: tl.constexpr,
    D2: tl.constexpr,
    SORTED: tl.constexpr,
    BINS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    THETA_ROWS: tl.constexpr,
    RANKS: tl.constexpr,
):
    program = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    if program < V1:
        first, count = _own_rows(starts, piece, program, count1, V1, SORTED, BINS)
        value = _sum_rows(shares1, first, count, column, RANK * D1, ROWS, BLOCK)
        offsets = program.to(tl.int64) * (RANK * D1) + column
        tl.store(grad_core1 + offsets, rounded(value, grad_core1.dtype.element_ty), mask=column < RANK * D1)
    elif program < V1 + V2:
        key = program - V1
        first, count = _own_rows(starts + BINS, piece, key, count2, V2, SORTED, BINS)
        value = _sum_rows(shares2, first, count, column, RANK * D2, ROWS, BLOCK)
        angle = tl.load(theta + column // D2, mask=column < RANK * D2, other=0.0).to(tl.float32)
        value *= tl.cos(angle)
        offsets = key.to(tl.int64) * (RANK * D2) + column
        tl.store(grad_core2 + offsets, rounded(value, grad_core2.dtype.element_ty), mask=column < RANK * D2)
    elif tl.program_id(1) == 0:
        rows = theta_count
        if SORTED:
            rows *= tl.sum(count_pieces(starts + BINS, piece, V2, BINS), axis=0)
        r = tl.arange(0, RANKS)
        value = _sum_rows(theta_shares, 0, rows, r, RANK, THETA_ROWS, RANKS)
        angle = tl.load(theta + r, mask=r < RANK, other=0.0).to(tl.float32)
        value = -tl.sin(angle) * value
        tl.store(grad_theta + r, rounded(value, grad_theta.dtype.element_ty), mask=r < RANK)
