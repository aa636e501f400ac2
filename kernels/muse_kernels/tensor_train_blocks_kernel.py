"""Triton kernels between a tensor-train table's cores and a block of its rows: expanded, and its gradient contracted.

W[i * v2 + j, a * d2 + b] = sum_r core1[i, r, a] right[j, r, b], with right[j, r, b] = cos(theta_r) core2[j, r, b]; a
block holds the rows [start, stop). A tile of it has A rows of a and J * B columns of (j, b), for one i.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from muse_kernels.products import dot, rounded
from muse_kernels.tensor_train_blocks import LEFT_COLUMNS, RIGHT_COLUMNS, SPLITS, part

EXPANDED_COLUMNS = 256  # (j, b) of a tile: with up to 32 of a, 8,192 numbers, 64 a thread


def launch_expand(core1: Tensor, core2: Tensor, theta: Tensor, table: Tensor, start: int) -> None:
    """Fills table (columns, d_model), contiguous: the rows from start of the table of these contiguous cores."""
    stop, v2 = start + table.shape[0], core2.shape[0]
    left, right = part(core1.shape[2]), part(core2.shape[2])
    across = EXPANDED_COLUMNS // right
    parts = triton.cdiv(core2.shape[2], right)
    grid = (_rows(start, stop, v2), triton.cdiv(v2, across), triton.cdiv(core1.shape[2], left) * parts)
    with torch.cuda.device_of(table):
        expand_kernel[grid](
            core1, core2, theta, table, start, stop, **_sizes(core1, core2, table),
            A=left, B=right, J=across, R=part(core1.shape[1]), PARTS=parts, num_warps=4, num_stages=2,
        )  # fmt: skip


def launch_contract(
    core1: Tensor, core2: Tensor, theta: Tensor, grad_table: Tensor, start: int, shares: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Adds what the gradient of the table's rows from start (columns, d_model), contiguous, gives to float32 shares.

    They are of core1 (v1, SPLITS, rank, d1), of the rotated core2 (v2, 1, rank, d2), both added to, and of its product
    with core2 (theta_rows, rank), of all that was added so far.
    """
    stop, v2 = start + grad_table.shape[0], core2.shape[0]
    left, right, ranks = part(core1.shape[2]), part(core2.shape[2]), part(core1.shape[1])
    lines = triton.cdiv(core1.shape[2], 16)
    rank_blocks, parts = triton.cdiv(core1.shape[1], ranks), triton.cdiv(core2.shape[2], right)
    programs = _rows(start, stop, v2) * SPLITS * lines + triton.cdiv(v2, RIGHT_COLUMNS // right) * parts
    with torch.cuda.device_of(grad_table):
        contract_kernel[(programs * rank_blocks,)](
            core1, core2, theta, grad_table, *shares, start, stop, **_sizes(core1, core2, grad_table),
            SPLITS=SPLITS, LINES=lines, RANK_BLOCKS=rank_blocks, PARTS=parts, A1=16, J1=LEFT_COLUMNS // right, A2=left,
            J2=RIGHT_COLUMNS // right, B=right, R=ranks, num_warps=4, num_stages=2,
        )  # fmt: skip


def _rows(start: int, stop: int, v2: int) -> int:
    """Rows of core1 that the ids [start, stop) have, the first and the last maybe in part."""
    return (stop - 1) // v2 - start // v2 + 1


def _sizes(core1: Tensor, core2: Tensor, table: Tensor) -> dict[str, int]:
    _, rank, d1 = core1.shape
    return {"V2": core2.shape[0], "RANK": rank, "D1": d1, "D2": core2.shape[2], "WIDTH": table.shape[1]}


@triton.jit
def load_left(core1, i, r, a, RANK: tl.constexpr, D1: tl.constexpr):
    """core1[i, r, a] as (a, r)."""
    mask = (a < D1)[:, None] & (r < RANK)[None, :]
    return tl.load(core1 + i * (RANK * D1) + r[None, :] * D1 + a[:, None], mask=mask, other=0.0)


@triton.jit
def load_cosines(theta, r, RANK: tl.constexpr):
    """cos(theta_r) in float32."""
    return tl.cos(tl.load(theta + r, mask=r < RANK, other=0.0).to(tl.float32))


@triton.jit
def load_right(core2, cosines, r, j, b, V2: tl.constexpr, RANK: tl.constexpr, D2: tl.constexpr):
    """cos(theta_r) core2[j, r, b], rounded to the dtype of core2, as (r, j b)."""
    mask = (r < RANK)[:, None] & ((j < V2) & (b < D2))[None, :]
    tile = tl.load(core2 + (j * (RANK * D2) + b)[None, :] + (r * D2)[:, None], mask=mask, other=0.0)
    return rounded(tile.to(tl.float32) * cosines[:, None], core2.dtype.element_ty)


@triton.jit
def table_places(
    i, a, j, b, start, stop, V2: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    """Where (a, j b) of the table's rows i * V2 + j lie in the block, and whether they do."""
    ids, columns = i * V2 + j, a[:, None] * D2 + b[None, :]
    inside = (j < V2) & (b < D2) & (ids >= start) & (ids < stop)
    mask = inside[None, :] & (a < D1)[:, None] & (columns < WIDTH)
    return ((ids - start) * WIDTH)[None, :] + columns, mask


@triton.jit
def expand_kernel(
    core1, core2, theta, table, start, stop,
    V2: tl.constexpr, RANK: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr, WIDTH: tl.constexpr,
    A: tl.constexpr, B: tl.constexpr, J: tl.constexpr, R: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    i, across = start // V2 + tl.program_id(0), tl.arange(0, J * B)
    j, b = tl.program_id(1) * J + across // B, tl.program_id(2) % PARTS * B + across % B
    a = tl.program_id(2) // PARTS * A + tl.arange(0, A)
    total = tl.zeros((A, J * B), dtype=tl.float32)
    for first in range(0, RANK, R):
        r = first + tl.arange(0, R)
        right = load_right(core2, load_cosines(theta, r, RANK), r, j, b, V2, RANK, D2)
        total = dot(load_left(core1, i, r, a, RANK, D1), right, total)
    places, mask = table_places(i, a, j, b, start, stop, V2, D1, D2, WIDTH)
    tl.store(table + places, rounded(total, table.dtype.element_ty), mask=mask)


@triton.jit
def contract_kernel(
    core1, core2, theta, grad_table, shares1, shares2, theta_shares, start, stop,
    V2: tl.constexpr, RANK: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr, WIDTH: tl.constexpr,
    SPLITS: tl.constexpr, LINES: tl.constexpr, RANK_BLOCKS: tl.constexpr, PARTS: tl.constexpr, A1: tl.constexpr,
    J1: tl.constexpr, A2: tl.constexpr, J2: tl.constexpr, B: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    # Every number of the shares of core1 and core2 belongs to one program, so that sums have one order.
    block, program = tl.program_id(0) % RANK_BLOCKS, tl.program_id(0) // RANK_BLOCKS
    r = block * R + tl.arange(0, R)
    first, last = start // V2, (stop - 1) // V2
    own = program - (last - first + 1) * (SPLITS * LINES)
    if own < 0:
        split = program // LINES % SPLITS
        add_left(
            core2, theta, grad_table, shares1, start, stop, first + program // (LINES * SPLITS), split, r,
            program % LINES * A1 + tl.arange(0, A1), V2, RANK, D1, D2, WIDTH, SPLITS, J1, B,
        )  # fmt: skip
    else:
        across = tl.arange(0, J2 * B)
        j, b = own // PARTS * J2 + across // B, own % PARTS * B + across % B
        add_right(
            core1, core2, grad_table, shares2, theta_shares + own * RANK, start, stop, first, last, r, j, b,
            V2, RANK, D1, D2, WIDTH, A2,
        )  # fmt: skip


@triton.jit
def add_left(
    core2, theta, grad_table, shares, start, stop, i, split, r, a,
    V2: tl.constexpr, RANK: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr, WIDTH: tl.constexpr,
    SPLITS: tl.constexpr, J: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """shares[i, split, r, a] += sum over the split's j and all b of the gradient times the rotated core2."""
    total = tl.zeros((a.shape[0], r.shape[0]), dtype=tl.float32)
    cosines, across, tiles = load_cosines(theta, r, RANK), tl.arange(0, J * B), (V2 + J - 1) // J
    for tile in range(split * tiles // SPLITS, (split + 1) * tiles // SPLITS):
        for begin in range(0, D2, B):
            j, b = tile * J + across // B, begin + across % B
            places, mask = table_places(i, a, j, b, start, stop, V2, D1, D2, WIDTH)
            gradient = tl.load(grad_table + places, mask=mask, other=0.0)
            total = dot(gradient, tl.trans(load_right(core2, cosines, r, j, b, V2, RANK, D2)), total)
    share = shares + (i * SPLITS + split) * (RANK * D1) + r[None, :] * D1 + a[:, None]
    mask = (a < D1)[:, None] & (r < RANK)[None, :]
    tl.store(share, tl.load(share, mask=mask, other=0.0) + total, mask=mask)


@triton.jit
def add_right(
    core1, core2, grad_table, shares, theta_share, start, stop, first, last, r, j, b,
    V2: tl.constexpr, RANK: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr, WIDTH: tl.constexpr, A: tl.constexpr,
):  # fmt: skip
    """shares[j, r, b] += sum over i and a of the gradient times core1; theta's share is their product with core2."""
    total = tl.zeros((r.shape[0], j.shape[0]), dtype=tl.float32)
    for i in range(first, last + 1):
        for begin in range(0, D1, A):
            a = begin + tl.arange(0, A)
            places, mask = table_places(i, a, j, b, start, stop, V2, D1, D2, WIDTH)
            gradient = tl.load(grad_table + places, mask=mask, other=0.0)
            total = dot(tl.trans(load_left(core1, i, r, a, RANK, D1)), gradient, total)
    places = (j * (RANK * D2) + b)[None, :] + (r * D2)[:, None]
    mask = (r < RANK)[:, None] & ((j < V2) & (b < D2))[None, :]
    total += tl.load(shares + places, mask=mask, other=0.0)
    tl.store(shares + places, total, mask=mask)
    plain = tl.load(core2 + places, mask=mask, other=0.0).to(tl.float32)
    tl.store(theta_share + r, tl.sum(total * plain, 1), mask=r < RANK)
