"""Triton kernel of the tensor-train logits, and the tiles that its gradients share.

A tile Y[t, i, r, b] = sum_a x[t, a, b] core1[i, r, a] is a small product; it stays on the chip and is multiplied by
the rotated core2, which gives the logits of tokens t and ids i * v2 + j. In float16, Y is scaled by a power of two
to use the range: neither may it overflow where the logits do not, nor small gradients vanish.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from muse_kernels.products import dot, rounded
from muse_kernels.tt_linear.plan import ROWS, Blocks

UNSCALED = tl.constexpr(2.0**100)


def launch_logits(x: Tensor, core1: Tensor, core2: Tensor, theta: Tensor, logits: Tensor, blocks: Blocks) -> None:
    """Fills logits (tokens, vocab_size), contiguous, from x (tokens, d_model) of any strides."""
    columns = triton.cdiv(core2.shape[0], blocks.columns)
    grid = (triton.cdiv(x.shape[0], blocks.tokens), triton.cdiv(core1.shape[0], ROWS) * columns)
    with torch.cuda.device_of(x):
        _logits[grid](
            *(x, core1, core2, theta, logits, x.shape[0], *x.stride()),
            VOCAB=logits.shape[1],
            COLUMN_BLOCKS=columns,
            **sizes(x, core1, core2, blocks),
            num_warps=blocks.warps,
            num_stages=2,
        )


def sizes(x: Tensor, core1: Tensor, core2: Tensor, blocks: Blocks) -> dict[str, int]:
    """The compile-time sizes that every kernel of this operation takes."""
    (v1, rank, d1), (v2, _, d2) = core1.shape, core2.shape
    table = {"D_MODEL": x.shape[1], "V1": v1, "V2": v2, "RANK": rank, "D1": d1, "D2": d2}
    tile = {"T": blocks.tokens, "I": ROWS, "J": blocks.columns, "R": blocks.ranks, "A": blocks.left, "B": blocks.right}
    return table | tile


@triton.jit
def load_x(x, tokens, x_row, x_column, t, a, b, D_MODEL: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr):
    """x[t, a, b] as (t b, a)."""
    a, b = a[None, None, :], b[None, :, None]
    t = t[:, None, None]
    column = a * D2 + b
    mask = (t < tokens) & (a < D1) & (b < D2) & (column < D_MODEL)
    tile = tl.load(x + t * x_row + column * x_column, mask=mask, other=0.0)
    return tl.reshape(tile, (tile.shape[0] * tile.shape[1], tile.shape[2]))


@triton.jit
def load_left(core1, i, r, a, V1: tl.constexpr, RANK: tl.constexpr, D1: tl.constexpr):
    """core1[i, r, a] as (i r, a)."""
    i, r, a = i[:, None, None], r[None, :, None], a[None, None, :]
    mask = (i < V1) & (r < RANK) & (a < D1)
    tile = tl.load(core1 + (i.to(tl.int64) * RANK + r) * D1 + a, mask=mask, other=0.0)
    return tl.reshape(tile, (tile.shape[0] * tile.shape[1], tile.shape[2]))


@triton.jit
def load_right(core2, theta, j, r, b, V2: tl.constexpr, RANK: tl.constexpr, D2: tl.constexpr):
    """cos(theta_r) core2[j, r, b], rounded to the dtype of core2, as (j, r b)."""
    cosine = tl.cos(tl.load(theta + r, mask=r < RANK, other=0.0).to(tl.float32))
    j, r, b = j[:, None, None], r[None, :, None], b[None, None, :]
    mask = (j < V2) & (r < RANK) & (b < D2)
    tile = tl.load(core2 + (j.to(tl.int64) * RANK + r) * D2 + b, mask=mask, other=0.0)
    tile = rounded(tile.to(tl.float32) * cosine[None, :, None], core2.dtype.element_ty)
    return tl.reshape(tile, (tile.shape[0], tile.shape[1] * tile.shape[2]))


@triton.jit
def by_vocabulary(tile, T: tl.constexpr, B: tl.constexpr, I: tl.constexpr, R: tl.constexpr):  # noqa: E741
    """(t b, i r) -> (t i, r b)."""
    return tl.reshape(tl.permute(tl.reshape(tile, (T, B, I, R)), (0, 2, 3, 1)), (T * I, R * B))


@triton.jit
def by_width(tile, T: tl.constexpr, B: tl.constexpr, I: tl.constexpr, R: tl.constexpr):  # noqa: E741
    """(t i, r b) -> (t b, i r)."""
    return tl.reshape(tl.permute(tl.reshape(tile, (T, I, R, B)), (0, 3, 1, 2)), (T * B, I * R))


@triton.jit
def fit(tile, scale, dtype: tl.constexpr):
    """The scale, lowered where needed so that the tile times it fits float16; other dtypes need none."""
    if dtype == tl.float16:
        largest = tl.minimum(tl.maximum(tl.max(tl.abs(tile)), 1e-28), 1e28)
        scale = tl.minimum(scale, tl.exp2(14.0 - tl.ceil(tl.log2(largest))))
    return scale


@triton.jit
def rescale(total, old, new, dtype: tl.constexpr):
    """A sum of tiles under the old scale, under the new one."""
    if dtype == tl.float16:  # noqa: SIM102 (decided when compiled, the other when run)
        if new < old:
            total *= new / old
    return total


@triton.jit
def scaled(tile, scale, dtype: tl.constexpr):
    """The tile, rounded to the dtype under this scale."""
    if dtype == tl.float16:
        tile *= scale
    return rounded(tile, dtype)


@triton.jit
def unscaled(total, scale, dtype: tl.constexpr):
    """A sum of scaled tiles, the scale undone."""
    if dtype == tl.float16:
        total /= scale
    return total


@triton.jit
def _logits(
    x,
    core1,
    core2,
    theta,
    logits,
    tokens,
    x_row,
    x_column,
    VOCAB: tl.constexpr,
    COLUMN_BLOCKS: tl.constexpr,
    D_MODEL: tl.constexpr,
    V1: tl.constexpr,
    V2: tl.constexpr,
    RANK: tl.constexpr,
    D1: tl.constexpr,
    D2: tl.constexpr,
    T: tl.constexpr,
    I: tl.constexpr,  # noqa: E741
    J: tl.constexpr,
    R: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
):
    dtype: tl.constexpr = core1.dtype.element_ty
    t = tl.program_id(0).to(tl.int64) * T + tl.arange(0, T)
    i = (tl.program_id(1) // COLUMN_BLOCKS) * I + tl.arange(0, I)
    j = (tl.program_id(1) % COLUMN_BLOCKS) * J + tl.arange(0, J)
    a = tl.arange(0, A)
    total, scale = tl.zeros((T * I, J), tl.float32), UNSCALED
    for b_start in range(0, D2, B):
        b = b_start + tl.arange(0, B)
        matrices = load_x(x, tokens, x_row, x_column, t, a, b, D_MODEL, D1, D2)
        for r_start in range(0, RANK, R):
            r = r_start + tl.arange(0, R)
            left = load_left(core1, i, r, a, V1, RANK, D1)
            right = load_right(core2, theta, j, r, b, V2, RANK, D2)
            y = dot(matrices, tl.trans(left), tl.zeros((T * B, I * R), tl.float32))
            new_scale = fit(y, scale, dtype)
            total = rescale(total, scale, new_scale, dtype)
            scale = new_scale
            y = by_vocabulary(scaled(y, scale, dtype), T, B, I, R)
            total = dot(y, tl.trans(right), total)
    total = tl.reshape(unscaled(total, scale, dtype), (T, I, J))
    i, j, t = i[None, :, None], j[None, None, :], t[:, None, None]
    column = i * V2 + j
    wanted = (t < tokens) & (i < V1) & (j < V2) & (column < VOCAB)
    tl.store(logits + t * VOCAB + column, rounded(total, dtype), mask=wanted)
