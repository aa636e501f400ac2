"""The tensor-train head's loss and gradients with logits in registers only.

logits[t, i1, i2] = sum_{r, b} y[t, i1, r, b] core2[i2, r, b], y[t, i1, r, b] = sum_a core1[i1, r, a] x[t, a, b].
A tile has TOKENS tokens and GROUP values of i1: its y, from one small product a token, reshapes into ROWS rows of
(token, i1) by DEPTH columns of (r, b) without moving, and multiplies columns of core2. Ranks come RANKS at a time.
"""

import triton
import triton.language as tl

from muse_kernels.linear_cross_entropy.kernel import (
    LOWEST,
    loss_scale,
    narrowed,
    store_statistics,
    token_factors,
    update,
)
from muse_kernels.products import dot


@triton.jit
def rotate_kernel(
    core2, theta, right, size, v2, rank, d2, RANKS: tl.constexpr, D2: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """right (columns, RANKS, D2) = cos(theta_r) core2[j, r, b], rounded, and 0 in what pads it."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    j, r, b = place // (RANKS * D2), place // D2 % RANKS, place % D2
    inside = (j < v2) & (r < rank) & (b < d2)
    value = tl.load(core2 + (j * rank + r) * d2 + b, mask=inside, other=0.0).to(tl.float32)
    value = value * tl.cos(tl.load(theta + r, mask=inside, other=0.0).to(tl.float32))
    tl.store(right + place, narrowed(value, right.dtype.element_ty), mask=place < size)


@triton.jit
def load_x(x, tokens, token_count, x_stride, WIDTH: tl.constexpr, d1: tl.constexpr, d2: tl.constexpr,
           D1: tl.constexpr, D2: tl.constexpr):  # fmt: skip
    """(TOKENS, D1, D2): rows of x as matrices, 0 where padded; past the last token, copies of it."""
    a, b = tl.arange(0, D1)[None, :, None], tl.arange(0, D2)[None, None, :]
    mask = (a < d1) & (b < d2) & (a * d2 + b < WIDTH)
    lines = tl.minimum(tokens, token_count - 1).to(tl.int64)[:, None, None] * x_stride
    return tl.load(x + lines + (a * d2 + b), mask=mask, other=0.0)


@triton.jit
def load_left(core1, group, chunk, v1, rank: tl.constexpr, d1: tl.constexpr, GROUP: tl.constexpr,
              RANKS: tl.constexpr, D1: tl.constexpr):  # fmt: skip
    """(GROUP * RANKS, D1) of core1."""
    lines = tl.arange(0, GROUP * RANKS)
    i1, r, a = group * GROUP + lines // RANKS, chunk * RANKS + lines % RANKS, tl.arange(0, D1)
    mask = ((i1 < v1) & (r < rank))[:, None] & (a < d1)[None, :]
    return tl.load(core1 + (i1 * rank + r)[:, None] * d1 + a[None, :], mask=mask, other=0.0)


@triton.jit
def load_right(right, columns, chunk, CHUNKS: tl.constexpr, RANKS: tl.constexpr, D2: tl.constexpr):
    """(COLUMNS, RANKS * D2) of the rotated and padded core2."""
    depth = chunk * (RANKS * D2) + tl.arange(0, RANKS * D2)
    return tl.load(right + columns[:, None] * (CHUNKS * RANKS * D2) + depth[None, :])


@triton.jit
def contract_left(left, tokens, TOKENS: tl.constexpr, GROUP: tl.constexpr, RANKS: tl.constexpr, D2: tl.constexpr):
    """(GROUP * RANKS, D1), (TOKENS, D1, D2) -> y, (TOKENS * GROUP, RANKS * D2)."""
    wide = tl.broadcast_to(left[None, :, :], (TOKENS, GROUP * RANKS, left.shape[1]))
    y = dot(wide, tokens, tl.zeros((TOKENS, GROUP * RANKS, D2), tl.float32))
    return tl.reshape(narrowed(y, tokens.dtype), (TOKENS * GROUP, RANKS * D2))


@triton.jit
def crop(logits, group, columns, v1, v2, vocab_size, TOKENS: tl.constexpr, GROUP: tl.constexpr):
    """The logits, and the ids of their columns; -inf and -2 past the vocabulary."""
    i1 = group * GROUP + tl.arange(0, TOKENS * GROUP) % GROUP
    ids = i1[:, None] * v2 + columns[None, :]
    inside = (i1 < v1)[:, None] & (columns < v2)[None, :] & (ids < vocab_size)
    return tl.where(inside, logits, float("-inf")), tl.where(inside, ids, -2)


@triton.jit
def train_logits(
    matrices, core1, right, group, columns, v1, v2, vocab_size, rank: tl.constexpr, d1: tl.constexpr,
    TOKENS: tl.constexpr, GROUP: tl.constexpr, RANKS: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr,
    COLUMNS: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """(TOKENS * GROUP, COLUMNS) logits in float32 and the ids of their columns, cropped."""
    logits = tl.zeros((TOKENS * GROUP, COLUMNS), dtype=tl.float32)
    for chunk in range(CHUNKS):
        left = load_left(core1, group, chunk, v1, rank, d1, GROUP, RANKS, D1)
        y = contract_left(left, matrices, TOKENS, GROUP, RANKS, D2)
        logits = dot(y, tl.trans(load_right(right, columns, chunk, CHUNKS, RANKS, D2)), logits)
    return crop(logits, group, columns, v1, v2, vocab_size, TOKENS, GROUP)


@triton.jit
def by_row(values, TOKENS: tl.constexpr, GROUP: tl.constexpr):
    """(TOKENS,) -> (TOKENS * GROUP,): the token's value for each of its rows."""
    return tl.reshape(tl.broadcast_to(values[:, None], (TOKENS, GROUP)), (TOKENS * GROUP,))


@triton.jit
def train_statistics_kernel(
    x, core1, right, targets, partial, picked,
    token_count, vocab_size, x_stride, v1, v2, token_tiles, splits,
    width: tl.constexpr, rank: tl.constexpr, d1: tl.constexpr, d2: tl.constexpr, TOKENS: tl.constexpr,
    GROUP: tl.constexpr, RANKS: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr, COLUMNS: tl.constexpr,
    CHUNKS: tl.constexpr,
):  # fmt: skip
    split = tl.program_id(0) // token_tiles
    tokens = tl.program_id(0) % token_tiles * TOKENS + tl.arange(0, TOKENS)
    target = tl.load(targets + tokens, mask=tokens < token_count, other=-1).to(tl.int32)
    row_target = by_row(target, TOKENS, GROUP)
    matrices = load_x(x, tokens, token_count, x_stride, width, d1, d2, D1, D2)
    groups = tl.cdiv(v1, GROUP)
    first, last = split * groups // splits, (split + 1) * groups // splits
    top = tl.full((TOKENS * GROUP,), LOWEST, dtype=tl.float32)
    total = tl.zeros((TOKENS * GROUP,), dtype=tl.float32)
    found = tl.zeros((TOKENS * GROUP,), dtype=tl.float32)
    for group in range(first, last):
        for start in range(0, v2, COLUMNS):
            logits, ids = train_logits(
                matrices, core1, right, group, start + tl.arange(0, COLUMNS), v1, v2, vocab_size,
                rank, d1, TOKENS, GROUP, RANKS, D1, D2, COLUMNS, CHUNKS,
            )  # fmt: skip
            top, total = update(logits, top, total)
            found += tl.sum(tl.where(ids == row_target[:, None], logits, 0.0), 1)
    tops = tl.reshape(top, (TOKENS, GROUP))
    best = tl.max(tops, 1)
    total = tl.sum(tl.reshape(total, (TOKENS, GROUP)) * tl.exp(tops - best[:, None]), 1)
    found = tl.sum(tl.reshape(found, (TOKENS, GROUP)), 1)
    store_statistics(
        partial, picked, tokens, token_count, split, splits, best, total, found, target,
        first * GROUP * v2, tl.minimum(last * GROUP * v2, vocab_size),
    )  # fmt: skip


@triton.jit
def train_input_gradient_kernel(
    x, core1, right, targets, statistics, grad, count, grad_x,
    token_count, vocab_size, x_stride, v1, v2, token_tiles, splits, ignore_index,
    MEAN: tl.constexpr, width: tl.constexpr, rank: tl.constexpr, d1: tl.constexpr, d2: tl.constexpr,
    TOKENS: tl.constexpr, GROUP: tl.constexpr, RANKS: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr,
    COLUMNS: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    split = tl.program_id(0) // token_tiles
    tokens = tl.program_id(0) % token_tiles * TOKENS + tl.arange(0, TOKENS)
    top, factor, target = token_factors(statistics, targets, tokens, token_count, ignore_index)
    top, factor, target = by_row(top, TOKENS, GROUP), by_row(factor, TOKENS, GROUP), by_row(target, TOKENS, GROUP)
    matrices = load_x(x, tokens, token_count, x_stride, width, d1, d2, D1, D2)
    groups = tl.cdiv(v1, GROUP)
    result = tl.zeros((TOKENS, D1, D2), dtype=tl.float32)
    for group in range(split * groups // splits, (split + 1) * groups // splits):
        for start in range(0, v2, COLUMNS):
            columns = start + tl.arange(0, COLUMNS)
            logits, ids = train_logits(
                matrices, core1, right, group, columns, v1, v2, vocab_size,
                rank, d1, TOKENS, GROUP, RANKS, D1, D2, COLUMNS, CHUNKS,
            )  # fmt: skip
            gradient = tl.exp(logits - top[:, None]) * factor[:, None]
            gradient = narrowed(gradient - tl.where(ids == target[:, None], 1.0, 0.0), matrices.dtype)
            for chunk in range(CHUNKS):
                tile = load_right(right, columns, chunk, CHUNKS, RANKS, D2)
                grad_y = dot(gradient, tile, tl.zeros((TOKENS * GROUP, RANKS * D2), tl.float32))
                grad_y = tl.reshape(narrowed(grad_y, matrices.dtype), (TOKENS, GROUP * RANKS, D2))
                left = tl.trans(load_left(core1, group, chunk, v1, rank, d1, GROUP, RANKS, D1))
                left = tl.broadcast_to(left[None, :, :], (TOKENS, D1, GROUP * RANKS))
                result = dot(left, grad_y, result)
    result = narrowed(result * loss_scale(grad, count, MEAN), grad_x.dtype.element_ty)
    a, b = tl.arange(0, D1)[None, :, None], tl.arange(0, D2)[None, None, :]
    mask = (tokens < token_count)[:, None, None] & (a < d1) & (b < d2) & (a * d2 + b < width)
    lines = (split.to(tl.int64) * token_count + tokens)[:, None, None] * width
    tl.store(grad_x + lines + (a * d2 + b), result, mask=mask)


@triton.jit
def train_core_gradients_kernel(
    x, core1, right, targets, statistics, grad, count, core2, grad_core1, grad_core2, grad_theta,
    token_count, vocab_size, x_stride, v1, v2, column_tiles, token_splits, splits,
    ignore_index,
    MEAN: tl.constexpr, width: tl.constexpr, rank: tl.constexpr, d1: tl.constexpr, d2: tl.constexpr,
    TOKENS: tl.constexpr, GROUP: tl.constexpr, RANKS: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr,
    COLUMNS: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    # One program: a tile of core2's columns, a chunk of ranks, a part of the tokens, a part of the groups of i1.
    pid = tl.program_id(0)
    tile, pid = pid % column_tiles, pid // column_tiles
    chunk, pid = pid % CHUNKS, pid // CHUNKS
    part, split = pid % token_splits, pid // token_splits
    columns = tile * COLUMNS + tl.arange(0, COLUMNS)
    own = load_right(right, columns, chunk, CHUNKS, RANKS, D2)
    scale = loss_scale(grad, count, MEAN)
    groups, token_tiles = tl.cdiv(v1, GROUP), tl.cdiv(token_count, TOKENS)
    lines, a = tl.arange(0, GROUP * RANKS), tl.arange(0, D1)
    grad_right = tl.zeros((COLUMNS, RANKS * D2), dtype=tl.float32)
    for group in range(split * groups // splits, (split + 1) * groups // splits):
        left = load_left(core1, group, chunk, v1, rank, d1, GROUP, RANKS, D1)
        grad_left = tl.zeros((TOKENS, GROUP * RANKS, D1), dtype=tl.float32)
        for token_tile in range(part * token_tiles // token_splits, (part + 1) * token_tiles // token_splits):
            tokens = token_tile * TOKENS + tl.arange(0, TOKENS)
            top, factor, target = token_factors(statistics, targets, tokens, token_count, ignore_index)
            matrices = load_x(x, tokens, token_count, x_stride, width, d1, d2, D1, D2)
            y = contract_left(left, matrices, TOKENS, GROUP, RANKS, D2)
            if CHUNKS == 1:
                logits = dot(y, tl.trans(own), tl.zeros((TOKENS * GROUP, COLUMNS), tl.float32))
                logits, ids = crop(logits, group, columns, v1, v2, vocab_size, TOKENS, GROUP)
            else:
                logits, ids = train_logits(
                    matrices, core1, right, group, columns, v1, v2, vocab_size,
                    rank, d1, TOKENS, GROUP, RANKS, D1, D2, COLUMNS, CHUNKS,
                )  # fmt: skip
            gradient = tl.exp(logits - by_row(top, TOKENS, GROUP)[:, None]) * by_row(factor, TOKENS, GROUP)[:, None]
            hit = tl.where(ids == by_row(target, TOKENS, GROUP)[:, None], 1.0, 0.0)
            gradient = narrowed(gradient - hit, matrices.dtype)
            grad_right = dot(tl.trans(gradient), y, grad_right)
            grad_y = dot(gradient, own, tl.zeros((TOKENS * GROUP, RANKS * D2), tl.float32))
            grad_y = tl.reshape(narrowed(grad_y, matrices.dtype), (TOKENS, GROUP * RANKS, D2))
            grad_left = dot(grad_y, tl.permute(matrices, (0, 2, 1)), grad_left)
        i1, r = group * GROUP + lines // RANKS, chunk * RANKS + lines % RANKS
        mask = ((i1 < v1) & (r < rank))[:, None] & (a < d1)[None, :]
        place = (i1 * (column_tiles * token_splits) + tile * token_splits + part).to(tl.int64) * rank + r
        tl.store(grad_core1 + place[:, None] * d1 + a[None, :], tl.sum(grad_left, 0) * scale, mask=mask)
    lines = tl.arange(0, RANKS * D2)
    r, b = chunk * RANKS + lines // D2, lines % D2
    mask = (columns < v2)[:, None] & ((r < rank) & (b < d2))[None, :]
    place = (columns * (splits * token_splits) + split * token_splits + part).to(tl.int64) * (rank * d2)
    tl.store(grad_core2 + place[:, None] + (r * d2 + b)[None, :], grad_right * scale, mask=mask)
    plain = tl.load(core2 + columns[:, None] * (rank * d2) + (r * d2 + b)[None, :], mask=mask, other=0.0)
    shares = tl.sum(grad_right * plain.to(tl.float32), 0)
    shares = tl.sum(tl.reshape(shares, (RANKS, D2)), 1) * scale
    r = chunk * RANKS + tl.arange(0, RANKS)
    place = ((split * token_splits + part) * column_tiles + tile) * rank + r
    tl.store(grad_theta + place, shares, mask=r < rank)
