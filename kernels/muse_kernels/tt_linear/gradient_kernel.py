"""Triton kernels of the gradients of the tensor-train logits: three readings of the logits' gradient.

The gradients of x and of core1 start from dY = (the logits' gradient) core2, that of core2 from Y as the logits do.
Those of x and of core1 are sums over different things; to find them in one reading, every program would leave
shares of all of core1, and few would fit the scratch.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from muse_kernels.products import dot, rounded
from muse_kernels.tensor_train_shares import launch_sum_shares
from muse_kernels.tt_linear.kernel import (
    UNSCALED,
    by_vocabulary,
    by_width,
    fit,
    load_left,
    load_right,
    load_x,
    rescale,
    scaled,
    sizes,
    unscaled,
)
from muse_kernels.tt_linear.plan import Blocks, Cut


def launch_gradients(
    x: Tensor,
    grad: Tensor,
    cores: tuple[Tensor, Tensor, Tensor],
    grad_x: Tensor,
    shares: tuple[Tensor, Tensor, Tensor],
    gradients: tuple[Tensor, Tensor, Tensor],
    blocks: Blocks,
    cut: Cut,
) -> None:
    """Fills grad_x, contiguous, and the gradients of the cores, from x and grad (tokens, vocab_size), any strides."""
    core1, core2, theta = cores
    strides = (x.shape[0], *x.stride(), *grad.stride())
    options = {"VOCAB": grad.shape[1], **sizes(x, core1, core2, blocks), "num_warps": blocks.warps, "num_stages": 1}
    with torch.cuda.device_of(x):
        _grad_x[(cut.tiles, cut.parts)](grad, core1, core2, theta, grad_x, x.shape[0], *grad.stride(), **options)
        _grad_core1[(cut.splits1, cut.groups * cut.ranks * cut.parts)](
            *(x, grad, core2, theta, shares[0], *strides), RANK_BLOCKS=cut.ranks, PARTS=cut.parts, **options
        )
        _grad_core2[(cut.splits2, cut.columns * cut.ranks * cut.parts)](
            *(x, grad, core1, core2, *shares[1:], *strides), RANK_BLOCKS=cut.ranks, PARTS=cut.parts, **options
        )
    counts = (shares[0].shape[1], shares[1].shape[1], shares[2].shape[0])
    launch_sum_shares(shares, theta, gradients, counts)


@triton.jit
def _load_grad(
    grad,
    tokens,
    grad_row,
    grad_column,
    t,
    i,
    j,
    VOCAB: tl.constexpr,
    V1: tl.constexpr,
    V2: tl.constexpr,
):
    """grad[t, i * V2 + j] as (t i, j)."""
    t, i, j = t[:, None, None], i[None, :, None], j[None, None, :]
    column = i * V2 + j
    mask = (t < tokens) & (i < V1) & (j < V2) & (column < VOCAB)
    tile = tl.load(grad + t * grad_row + column * grad_column, mask=mask, other=0.0)
    return tl.reshape(tile, (tile.shape[0] * tile.shape[1], tile.shape[2]))


@triton.jit
def _contract_grad(
    grad,
    core2,
    theta,
    tokens,
    grad_row,
    grad_column,
    t,
    i,
    r,
    b,
    VOCAB: tl.constexpr,
    V1: tl.constexpr,
    V2: tl.constexpr,
    RANK: tl.constexpr,
    D2: tl.constexpr,
    J: tl.constexpr,
):
    """dY[t, i, r, b] = sum_j grad[t, i, j] core2[j, r, b], the core rotated, as (t i, r b)."""
    total = tl.zeros((t.shape[0] * i.shape[0], r.shape[0] * b.shape[0]), tl.float32)
    for start in range(0, V2, J):
        j = start + tl.arange(0, J)
        logits = _load_grad(grad, tokens, grad_row, grad_column, t, i, j, VOCAB, V1, V2)
        total = dot(logits, load_right(core2, theta, j, r, b, V2, RANK, D2), total)
    return total


@triton.jit
def _grad_x(
    grad,
    core1,
    core2,
    theta,
    grad_x,
    tokens,
    grad_row,
    grad_column,
    VOCAB: tl.constexpr,
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
    """A program owns a tile of tokens, and sums over all of the vocabulary."""
    dtype: tl.constexpr = core1.dtype.element_ty
    t = tl.program_id(0).to(tl.int64) * T + tl.arange(0, T)
    a, b = tl.arange(0, A), tl.program_id(1) * B + tl.arange(0, B)
    total, scale = tl.zeros((T * B, A), tl.float32), UNSCALED
    for i_start in range(0, V1, I):
        i = i_start + tl.arange(0, I)
        for r_start in range(0, RANK, R):
            r = r_start + tl.arange(0, R)
            grad_y = _contract_grad(
                *(grad, core2, theta, tokens, grad_row, grad_column, t, i, r, b, VOCAB, V1, V2, RANK, D2, J)
            )
            new_scale = fit(grad_y, scale, dtype)
            total = rescale(total, scale, new_scale, dtype)
            scale = new_scale
            rows = by_width(scaled(grad_y, scale, dtype), T, B, I, R)  # (t b, i r)
            total = dot(rows, load_left(core1, i, r, a, V1, RANK, D1), total)
    total = tl.reshape(unscaled(total, scale, dtype), (T, B, A))
    a, b, t = a[None, None, :], b[None, :, None], t[:, None, None]
    column = a * D2 + b
    wanted = (t < tokens) & (a < D1) & (b < D2) & (column < D_MODEL)
    tl.store(grad_x + t * D_MODEL + column, rounded(total, dtype), mask=wanted)


@triton.jit
def _grad_core1(
    x,
    grad,
    core2,
    theta,
    shares,
    tokens,
    x_row,
    x_column,
    grad_row,
    grad_column,
    RANK_BLOCKS: tl.constexpr,
    PARTS: tl.constexpr,
    VOCAB: tl.constexpr,
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
    """A program owns a block of core1 for every so many-th tile of tokens, and keeps its sum in registers."""
    dtype: tl.constexpr = core2.dtype.element_ty
    block, part = tl.program_id(1) // PARTS, tl.program_id(1) % PARTS
    i, r = (block // RANK_BLOCKS) * I + tl.arange(0, I), (block % RANK_BLOCKS) * R + tl.arange(0, R)
    a, b = tl.arange(0, A), part * B + tl.arange(0, B)
    total, scale = tl.zeros((I * R, A), tl.float32), UNSCALED
    for tile in range(tl.program_id(0), tl.cdiv(tokens, T), tl.num_programs(0)):
        t = tile * T + tl.arange(0, T).to(tl.int64)
        grad_y = _contract_grad(
            *(grad, core2, theta, tokens, grad_row, grad_column, t, i, r, b, VOCAB, V1, V2, RANK, D2, J)
        )
        new_scale = fit(grad_y, scale, dtype)
        total = rescale(total, scale, new_scale, dtype)
        scale = new_scale
        rows = by_width(scaled(grad_y, scale, dtype), T, B, I, R)  # (t b, i r)
        matrices = load_x(x, tokens, x_row, x_column, t, a, b, D_MODEL, D1, D2)
        total = dot(tl.trans(rows), matrices, total)
    total = tl.reshape(unscaled(total, scale, dtype), (I, R, A))
    i, r, a = i[:, None, None], r[None, :, None], a[None, None, :]
    share = i.to(tl.int64) * (tl.num_programs(0) * PARTS) + tl.program_id(0) * PARTS + part
    tl.store(shares + (share * RANK + r) * D1 + a, total, mask=(i < V1) & (r < RANK) & (a < D1))


@triton.jit
def _grad_core2(
    x,
    grad,
    core1,
    core2,
    shares,
    theta_shares,
    tokens,
    x_row,
    x_column,
    grad_row,
    grad_column,
    RANK_BLOCKS: tl.constexpr,
    PARTS: tl.constexpr,
    VOCAB: tl.constexpr,
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
    """A program owns a block of core2 for a range of (tile of tokens, block of core1), with its sum in registers."""
    dtype: tl.constexpr = core1.dtype.element_ty
    block, r_block = tl.program_id(1) // RANK_BLOCKS, tl.program_id(1) % RANK_BLOCKS
    a, r = tl.arange(0, A), r_block * R + tl.arange(0, R)
    j, b = (block // PARTS) * J + tl.arange(0, J), (block % PARTS) * B + tl.arange(0, B)
    total, scale = tl.zeros((J, R * B), tl.float32), UNSCALED
    groups: tl.constexpr = (V1 + I - 1) // I
    pairs = tl.cdiv(tokens, T) * groups
    length = tl.cdiv(pairs, tl.num_programs(0))
    begin = tl.program_id(0) * length
    for pair in range(begin, tl.minimum(begin + length, pairs)):
        t = (pair // groups) * T + tl.arange(0, T).to(tl.int64)
        i = (pair % groups) * I + tl.arange(0, I)
        matrices = load_x(x, tokens, x_row, x_column, t, a, b, D_MODEL, D1, D2)
        left = load_left(core1, i, r, a, V1, RANK, D1)
        y = dot(matrices, tl.trans(left), tl.zeros((T * B, I * R), tl.float32))
        new_scale = fit(y, scale, dtype)
        total = rescale(total, scale, new_scale, dtype)
        scale = new_scale
        y = by_vocabulary(scaled(y, scale, dtype), T, B, I, R)  # (t i, r b)
        logits = _load_grad(grad, tokens, grad_row, grad_column, t, i, j, VOCAB, V1, V2)
        total = dot(tl.trans(logits), y, total)
    total = tl.reshape(unscaled(total, scale, dtype), (J, R, B))
    j, b = j[:, None, None], b[None, None, :]
    mask = (j < V2) & (r < RANK)[None, :, None] & (b < D2)
    inner = r[None, :, None] * D2 + b
    share = j.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    tl.store(shares + share * (RANK * D2) + inner, total, mask=mask)
    core = tl.load(core2 + j.to(tl.int64) * (RANK * D2) + inner, mask=mask, other=0.0).to(tl.float32)
    theta_row = tl.program_id(0) * (tl.num_programs(1) // RANK_BLOCKS) + block
    tl.store(theta_shares + theta_row * RANK + r, tl.sum(tl.sum(total * core, axis=2), axis=0), mask=r < RANK)
