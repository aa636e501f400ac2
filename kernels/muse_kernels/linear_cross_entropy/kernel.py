"""Triton kernels that both heads share: products with an online logsumexp, statistics to loss.

Rows are tokens, columns the vocabulary. A token's statistics are its largest logit and the sum of
exp(logit - largest). Loops over columns are cut into splits, each with statistics of its own.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from muse_kernels.linear_cross_entropy.blocks import LOSSES_A_PROGRAM, Tiles, is_narrow, takes_descriptors
from muse_kernels.linear_cross_entropy.softmax import Loss
from muse_kernels.products import INTERPRETED, dot, rounded

LOWEST = tl.constexpr(-3.4028234663852886e38)  # not -inf, from which -inf could not be subtracted


@triton.jit
def logits_tile(
    x,
    weight,
    bias,
    row,
    column,
    token_count,
    vocab_size,
    width,
    x_stride,
    weight_stride,
    HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    EVEN: tl.constexpr,
    TMA: tl.constexpr,
):
    """(ROWS, COLUMNS) logits in float32, the same to the bit wherever it is called; past the ends, copies.

    With TMA, x and weight are descriptors, and what lies past the ends is as from zeros.
    """
    columns = column + tl.arange(0, COLUMNS)
    if not TMA:
        depth = tl.arange(0, DEPTH)
        # Clamped rows are loaded twice instead of masked; what they give is dropped.
        x_rows = tl.minimum(row + tl.arange(0, ROWS), token_count - 1).to(tl.int64) * x_stride
        weight_rows = tl.minimum(columns, vocab_size - 1).to(tl.int64) * weight_stride
        x_tile = x + x_rows[:, None] + depth[None, :]
        weight_tile = weight + weight_rows[None, :] + depth[:, None]
    logits = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, width, DEPTH):
        if TMA:
            left, right = x.load([row, start]), tl.trans(weight.load([column, start]))
        elif EVEN:
            left = tl.load(x_tile + start)
            right = tl.load(weight_tile + start)
        else:
            left = tl.load(x_tile + start, mask=(start + depth)[None, :] < width, other=0.0)
            right = tl.load(weight_tile + start, mask=(start + depth)[:, None] < width, other=0.0)
        logits = dot(left, right, logits)
    if HAS_BIAS:
        logits += tl.load(bias + columns, mask=columns < vocab_size, other=0.0).to(tl.float32)[None, :]
    return logits


@triton.jit
def narrowed(value, dtype: tl.constexpr):
    """The value rounded to this dtype; zero stays zero in the interpreter too, where rounding makes it subnormal."""
    result = rounded(value, dtype)
    if INTERPRETED:
        result = tl.where(value == 0, tl.zeros_like(result), result)
    return result


@triton.jit
def update(logits, top, total):
    """The statistics of rows once these logits of theirs were seen too."""
    best = tl.maximum(top, tl.max(logits, 1))
    total = total * tl.exp(top - best) + tl.sum(tl.exp(logits - best[:, None]), 1)
    return best, total


@triton.jit
def token_factors(statistics, targets, rows, token_count, ignore_index):
    """Largest logit, factor of exp(logit - largest) in the gradient, and target; 0 and -1 for tokens that do not count.

    Rows past the last have the last one's largest logit, which belongs to what logits_tile copies for them.
    """
    clamped = tl.minimum(rows, token_count - 1)
    top = tl.load(statistics + clamped)
    factor = tl.load(statistics + token_count + rows, mask=rows < token_count, other=0.0)
    target = tl.load(targets + clamped)
    return top, factor, tl.where((rows < token_count) & (target != ignore_index), target, -1).to(tl.int32)


@triton.jit
def loss_scale(grad, count, MEAN: tl.constexpr):
    """The gradient of the loss with respect to the loss of a token that counts; 0 if none does."""
    scale = tl.load(grad).to(tl.float32)
    if MEAN:
        tokens = tl.load(count)
        scale = tl.where(tokens > 0.0, scale / tokens, 0.0)
    return scale


@triton.jit
def statistics_kernel(
    x,
    weight,
    bias,
    targets,
    partial,
    picked,
    token_count,
    vocab_size,
    width,
    x_stride,
    weight_stride,
    row_tiles,
    splits,
    start,
    FIRST: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    EVEN: tl.constexpr,
    TMA: tl.constexpr,
):
    # Neighbours share columns, whose weights then come from the cache.
    split = tl.program_id(0) // row_tiles
    row = tl.program_id(0) % row_tiles * ROWS
    rows = row + tl.arange(0, ROWS)
    target = tl.load(targets + rows, mask=rows < token_count, other=-1).to(tl.int32) - start
    tiles = tl.cdiv(vocab_size, COLUMNS)
    first, last = split * tiles // splits, (split + 1) * tiles // splits
    if FIRST:
        top = tl.full((ROWS,), LOWEST, dtype=tl.float32)
        total = tl.zeros((ROWS,), dtype=tl.float32)
    else:
        before = partial + split.to(tl.int64) * token_count + rows
        top = tl.load(before, mask=rows < token_count, other=0.0)
        total = tl.load(before + splits * token_count, mask=rows < token_count, other=1.0)
    found = tl.zeros((ROWS,), dtype=tl.float32)
    for tile in range(first, last):
        columns = tile * COLUMNS + tl.arange(0, COLUMNS)
        logits = logits_tile(
            x, weight, bias, row, tile * COLUMNS, token_count, vocab_size, width, x_stride, weight_stride,
            HAS_BIAS, ROWS, COLUMNS, DEPTH, EVEN, TMA,
        )  # fmt: skip
        if (tile + 1) * COLUMNS > vocab_size:
            logits = tl.where((columns < vocab_size)[None, :], logits, float("-inf"))
        top, total = update(logits, top, total)
        here = target // COLUMNS == tile
        if tl.max(here.to(tl.int32), 0) > 0:  # most tiles hold no target
            found += tl.sum(tl.where(columns[None, :] == target[:, None], logits, 0.0), 1)
    store_statistics(
        partial, picked, rows, token_count, split, splits, top, total, found, target,
        first * COLUMNS, tl.minimum(last * COLUMNS, vocab_size),
    )  # fmt: skip


@triton.jit
def store_statistics(partial, picked, rows, token_count, split, splits, top, total, found, target, start, stop):
    """Writes a split's statistics; the target's logit only if the split has its column."""
    inside = rows < token_count
    tl.store(partial + split.to(tl.int64) * token_count + rows, top, mask=inside)
    tl.store(partial + (splits + split).to(tl.int64) * token_count + rows, total, mask=inside)
    tl.store(picked + rows, found, mask=inside & (target >= start) & (target < stop))


@triton.jit
def token_losses_kernel(
    partial,
    picked,
    targets,
    statistics,
    sums,
    token_count,
    splits,
    vocab_size,
    ignore_index,
    z_loss,
    programs,
    ROWS: tl.constexpr,
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = rows < token_count
    top = tl.full((ROWS,), LOWEST, dtype=tl.float32)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    tops = rows.to(tl.int64)
    totals = tops + splits * token_count
    for _ in range(splits):
        other_top = tl.load(partial + tops, mask=inside, other=0.0)
        other_total = tl.load(partial + totals, mask=inside, other=1.0)
        best = tl.maximum(top, other_top)
        total = total * tl.exp(top - best) + other_total * tl.exp(other_top - best)
        top = best
        tops += token_count
        totals += token_count
    target = tl.load(targets + rows, mask=inside, other=ignore_index)
    valid = inside & (target != ignore_index)
    outside = valid & ((target < 0) | (target >= vocab_size))
    log_total = tl.log(total)
    factor = (1.0 + 2.0 * z_loss * (top + log_total)) / total
    tl.store(statistics + rows, top, mask=inside)
    tl.store(statistics + token_count + rows, tl.where(valid, factor, 0.0), mask=inside)
    loss = log_total - (tl.load(picked + rows, mask=valid, other=0.0) - top)
    if z_loss != 0.0:
        loss += z_loss * (top + log_total) * (top + log_total)
    place = sums + tl.program_id(0)
    tl.store(place, tl.sum(tl.where(valid, loss, 0.0), 0))
    tl.store(place + programs, tl.sum(valid.to(tl.float32), 0))
    tl.store(place + 2 * programs, tl.sum(outside.to(tl.float32), 0))


@triton.jit
def total_loss_kernel(sums, loss, count, in_range, programs, MEAN: tl.constexpr, PROGRAMS: tl.constexpr):
    losses = tl.zeros((PROGRAMS,), dtype=tl.float32)
    tokens = tl.zeros((PROGRAMS,), dtype=tl.float32)
    wrong = tl.zeros((PROGRAMS,), dtype=tl.float32)
    for start in range(0, programs, PROGRAMS):
        place = start + tl.arange(0, PROGRAMS)
        losses += tl.load(sums + place, mask=place < programs, other=0.0)
        tokens += tl.load(sums + programs + place, mask=place < programs, other=0.0)
        wrong += tl.load(sums + 2 * programs + place, mask=place < programs, other=0.0)
    result, counted = tl.sum(losses, 0), tl.sum(tokens, 0)
    if MEAN:
        result = result / counted
    tl.store(loss, result)
    tl.store(count, counted)
    tl.store(in_range, tl.sum(wrong, 0) == 0.0)


def launch_statistics(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    partial: Tensor,
    picked: Tensor,
    tiles: Tiles,
    start: int = 0,
) -> None:
    """Fills the statistics (2, splits, tokens) of each split of the vocabulary, and the targets' logits.

    Of a vocabulary in blocks, weight holds the rows from start, and their logits are taken into what is there.
    """
    (tokens, width), splits = x.shape, partial.shape[1]
    row_tiles = triton.cdiv(tokens, tiles.rows)
    tma = not is_narrow(width, x.dtype) and takes_descriptors(x, weight)
    factors: tuple[Any, Any] = (x, weight)
    if tma:
        factors = descriptor(x, tiles.rows, tiles.depth), descriptor(weight, tiles.columns, tiles.depth)
    with torch.cuda.device_of(x):
        statistics_kernel[(row_tiles * splits,)](
            *factors, bias, targets, partial, picked,
            tokens, weight.shape[0], width, x.stride(0), weight.stride(0), row_tiles, splits, start,
            FIRST=start == 0, HAS_BIAS=bias is not None, ROWS=tiles.rows, COLUMNS=tiles.columns, DEPTH=tiles.depth,
            EVEN=width % tiles.depth == 0, TMA=tma, num_warps=tiles.warps, num_stages=tiles.stages,
        )  # fmt: skip


def descriptor(matrix: Tensor, rows: int, columns: int) -> Any:
    """What the copy engine fetches tiles of the matrix by."""
    return TensorDescriptor.from_tensor(matrix, [rows, columns])


def launch_loss(
    partial: Tensor,
    picked: Tensor,
    targets: Tensor,
    vocab_size: int,
    loss: Loss,
    statistics: Tensor,
    sums: Tensor,
    results: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Joins the splits into each token's largest logit and factor (see token_factors) and into three results.

    They are the loss, the number of tokens that count, and whether all their targets are in range.
    """
    tokens, programs = targets.shape[0], sums.shape[1]
    with torch.cuda.device_of(targets):
        if tokens > 0:
            token_losses_kernel[(programs,)](
                partial, picked, targets, statistics, sums, tokens, partial.shape[1], vocab_size,
                loss.ignore_index, float(loss.z_loss), programs, ROWS=LOSSES_A_PROGRAM,
            )  # fmt: skip
        total_loss_kernel[(1,)](sums, *results, programs, MEAN=loss.reduction == "mean", PROGRAMS=128)
