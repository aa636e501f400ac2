"""A wide head's blocks: logits turned into their gradient, and the gradient of x summed over blocks.

A 16-bit gradient of x is summed in 24 bits: the upper 16 of a float32 lie where the result will, the next 8 beside it.
Each product adds to it from a float32 accumulator, and what rounding 16 significant bits loses is far below the last
place of the result.

Where the GPU has a copy engine for tiles (TMA), both factors of a product come to the kernels as descriptors.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from muse_kernels.linear_cross_entropy.blocks import Block, Tiles, takes_descriptors
from muse_kernels.linear_cross_entropy.kernel import (
    LOWEST,
    descriptor,
    logits_tile,
    loss_scale,
    narrowed,
    token_factors,
    update,
)
from muse_kernels.linear_cross_entropy.softmax import Loss
from muse_kernels.products import dot


@triton.jit
def logits_gradient_kernel(
    x,
    weight,
    bias,
    targets,
    statistics,
    grad,
    count,
    grad_logits,
    column_sums,
    token_count,
    vocab_size,
    width,
    x_stride,
    weight_stride,
    grad_stride,
    start,
    stop,
    row_tiles,
    ignore_index,
    HAS_BIAS: tl.constexpr,
    SUMS: tl.constexpr,
    MEAN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    EVEN: tl.constexpr,
    TMA: tl.constexpr,
):
    row_tile, column_tile = tl.program_id(0) % row_tiles, tl.program_id(0) // row_tiles
    rows = row_tile * ROWS + tl.arange(0, ROWS)
    places = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    columns = start + places
    logits = logits_tile(
        x, weight, bias, row_tile * ROWS, start + column_tile * COLUMNS, token_count, vocab_size, width,
        x_stride, weight_stride, HAS_BIAS, ROWS, COLUMNS, DEPTH, EVEN, TMA,
    )  # fmt: skip
    top, factor, target = token_factors(statistics, targets, rows, token_count, ignore_index)
    scale = loss_scale(grad, count, MEAN)
    gradient = tl.exp(logits - top[:, None]) * (factor * scale)[:, None]
    gradient = gradient - tl.where(columns[None, :] == target[:, None], scale, 0.0)
    mask = (rows < token_count)[:, None] & (columns < stop)[None, :]
    place = rows.to(tl.int64)[:, None] * grad_stride + places[None, :]
    tl.store(grad_logits + place, narrowed(gradient, grad_logits.dtype.element_ty), mask=mask)
    if SUMS:
        # Logits of zeros, past the last token, may be infinitely above its largest one: inf * 0.
        gradient = tl.where((rows < token_count)[:, None], gradient, 0.0)
        sums = column_sums + row_tile.to(tl.int64) * (stop - start) + places
        tl.store(sums, tl.sum(gradient, 0), mask=columns < stop)


@triton.jit
def add_tiles(
    total,
    left,
    right,
    row,
    column,
    skipped,
    row_count,
    depth_count,
    column_count,
    left_stride,
    right_stride,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    EVEN: tl.constexpr,
    TMA: tl.constexpr,
):
    """total + left @ right, for the tile at row and column, from the row of right that follows those skipped."""
    if not TMA:
        depth = tl.arange(0, DEPTH)
        rows, columns = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
        left_tile = left + tl.minimum(rows, row_count - 1).to(tl.int64)[:, None] * left_stride + depth[None, :]
        right_tile = right + (skipped + depth).to(tl.int64)[:, None] * right_stride + columns[None, :]
        inside = (columns < column_count)[None, :]
    for start in range(0, depth_count, DEPTH):
        if TMA:  # of left, zeros past depth_count
            a, b = left.load([row, start]), right.load([skipped + start, column])
        elif EVEN:
            a, b = tl.load(left_tile), tl.load(right_tile, mask=inside, other=0.0)
        else:
            a = tl.load(left_tile, mask=(start + depth)[None, :] < depth_count, other=0.0)
            b = tl.load(right_tile, mask=inside & ((start + depth)[:, None] < depth_count), other=0.0)
        total = dot(a, b, total)
        if not TMA:
            left_tile += DEPTH
            right_tile += DEPTH * right_stride
    return total


@triton.jit
def add_product_kernel(
    left,
    rest,
    right,
    out,
    upper,
    lower,
    row_count,
    left_count,
    rest_count,
    column_count,
    left_stride,
    rest_stride,
    right_stride,
    column_tiles,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    REST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    EVEN: tl.constexpr,
    TMA: tl.constexpr,
):
    # Neighbours share rows of the left factor, which is the larger one.
    row, column = tl.program_id(0) // column_tiles * ROWS, tl.program_id(0) % column_tiles * COLUMNS
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    total = add_tiles(
        total, left, right, row, column, 0, row_count, left_count, column_count, left_stride, right_stride,
        ROWS, COLUMNS, DEPTH, EVEN, TMA,
    )  # fmt: skip
    if REST:
        total = add_tiles(
            total, rest, right, row, column, left_count, row_count, rest_count, column_count, rest_stride, right_stride,
            ROWS, COLUMNS, DEPTH, EVEN, TMA,
        )  # fmt: skip
    rows, columns = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
    place = rows.to(tl.int64)[:, None] * column_count + columns[None, :]
    mask = (rows < row_count)[:, None] & (columns < column_count)[None, :]
    if not FIRST:
        bits = tl.load(upper + place, mask=mask, other=0).to(tl.int32) << 16
        bits |= tl.load(lower + place, mask=mask, other=0).to(tl.int32) << 8
        total += bits.to(tl.float32, bitcast=True)
    if LAST:
        tl.store(out + place, narrowed(total, out.dtype.element_ty), mask=mask)
    else:
        bits = total.to(tl.int32, bitcast=True)
        bits = tl.where(total == total, bits + 128, bits)  # to nearest; a nan stays one
        tl.store(upper + place, (bits >> 16).to(tl.int16), mask=mask)
        tl.store(lower + place, ((bits >> 8) & 255).to(tl.uint8), mask=mask)


@triton.jit
def block_statistics_kernel(
    logits,
    targets,
    partial,
    picked,
    token_count,
    stride,
    start,
    stop,
    FIRST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = rows < token_count
    if FIRST:
        top = tl.full((ROWS,), LOWEST, dtype=tl.float32)
        total = tl.zeros((ROWS,), dtype=tl.float32)
    else:
        top = tl.load(partial + rows, mask=inside, other=0.0)
        total = tl.load(partial + token_count + rows, mask=inside, other=1.0)
    line = logits + rows.to(tl.int64)[:, None] * stride
    for first in range(0, stop - start, COLUMNS):
        places = first + tl.arange(0, COLUMNS)
        mask = inside[:, None] & (places < stop - start)[None, :]
        tile = tl.load(line + places[None, :], mask=mask, other=float("-inf")).to(tl.float32)
        top, total = update(tile, top, total)
    tl.store(partial + rows, top, mask=inside)
    tl.store(partial + token_count + rows, total, mask=inside)
    target = tl.load(targets + rows, mask=inside, other=-1)
    here = inside & (target >= start) & (target < stop)
    found = tl.load(logits + rows.to(tl.int64) * stride + (target - start), mask=here, other=0.0)
    tl.store(picked + rows, found.to(tl.float32), mask=here)


@triton.jit
def block_gradient_kernel(
    logits,
    targets,
    statistics,
    grad,
    count,
    token_count,
    stride,
    start,
    stop,
    row_tiles,
    ignore_index,
    MEAN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    rows = tl.program_id(0) % row_tiles * ROWS + tl.arange(0, ROWS)
    places = tl.program_id(0) // row_tiles * COLUMNS + tl.arange(0, COLUMNS)
    top, factor, target = token_factors(statistics, targets, rows, token_count, ignore_index)
    mask = (rows < token_count)[:, None] & (places < stop - start)[None, :]
    place = logits + rows.to(tl.int64)[:, None] * stride + places[None, :]
    scale = loss_scale(grad, count, MEAN)
    gradient = tl.exp(tl.load(place, mask=mask, other=0.0).to(tl.float32) - top[:, None]) * (factor * scale)[:, None]
    gradient = gradient - tl.where((start + places)[None, :] == target[:, None], scale, 0.0)
    tl.store(place, narrowed(gradient, logits.dtype.element_ty), mask=mask)


def launch_logits_gradient(
    operands: tuple[Tensor, Tensor, Tensor | None],
    saved: tuple[Tensor, Tensor, Tensor, Tensor],
    block: Block,
    grad_logits: Tensor,
    column_sums: Tensor | None,
    loss: Loss,
    tiles: Tiles,
) -> None:
    """Fills a block's (tokens, columns) of gradient, and for a bias its sums over each tile of rows."""
    x, weight, bias = operands
    row_tiles, tma = triton.cdiv(x.shape[0], tiles.rows), takes_descriptors(x, weight)
    factors: tuple[Any, Any] = x, weight
    if tma:
        factors = descriptor(x, tiles.rows, tiles.depth), descriptor(weight, tiles.columns, tiles.depth)
    with torch.cuda.device_of(x):
        logits_gradient_kernel[(row_tiles * triton.cdiv(block.stop - block.start, tiles.columns),)](
            *factors, bias, *saved, grad_logits, column_sums, x.shape[0], *weight.shape,
            x.stride(0), weight.stride(0), grad_logits.stride(0), block.start, block.stop, row_tiles,
            loss.ignore_index,
            HAS_BIAS=bias is not None, SUMS=column_sums is not None, MEAN=loss.reduction == "mean",
            ROWS=tiles.rows, COLUMNS=tiles.columns, DEPTH=tiles.depth, EVEN=x.shape[1] % tiles.depth == 0, TMA=tma,
            num_warps=tiles.warps, num_stages=tiles.stages,
        )  # fmt: skip


def launch_add_product(
    left: Tensor,
    right: Tensor,
    out: Tensor,
    lower: Tensor | None,
    tiles: Tiles,
    *,
    first: bool,
    last: bool,
    rest: Tensor | None = None,
) -> None:
    """out += left @ right, in the 24 bits of out and lower until the last product; left's columns go on in the rest."""
    (rows, depth), columns = left.shape, right.shape[1]
    lefts = [left] if rest is None else [left, rest]
    tma, even = takes_descriptors(*lefts, right), all(part.shape[1] % tiles.depth == 0 for part in lefts)
    factors: list[Any] = [left, rest, right]
    if tma:
        factors = [None if part is None else descriptor(part, tiles.rows, tiles.depth) for part in (left, rest)]
        factors += [descriptor(right, tiles.depth, tiles.columns)]
    rest_count, rest_stride = (0, 0) if rest is None else (rest.shape[1], rest.stride(0))
    column_tiles = triton.cdiv(columns, tiles.columns)
    with torch.cuda.device_of(left):
        add_product_kernel[(triton.cdiv(rows, tiles.rows) * column_tiles,)](
            *factors, out, None if lower is None else out.view(torch.int16), lower,
            rows, depth, rest_count, columns, left.stride(0), rest_stride, right.stride(0), column_tiles,
            FIRST=first, LAST=last, REST=rest is not None,
            ROWS=tiles.rows, COLUMNS=tiles.columns, DEPTH=tiles.depth, EVEN=even, TMA=tma,
            num_warps=tiles.warps, num_stages=tiles.stages,
        )  # fmt: skip


def launch_block_statistics(
    logits: Tensor, targets: Tensor, partial: Tensor, picked: Tensor, start: int, *, first: bool
) -> None:
    """Takes the logits (tokens, columns) of the columns from start into the statistics (2, 1, tokens)."""
    tokens, columns = logits.shape
    with torch.cuda.device_of(logits):
        block_statistics_kernel[(triton.cdiv(tokens, 4),)](
            logits, targets, partial, picked, tokens, logits.stride(0), start, start + columns,
            FIRST=first, ROWS=4, COLUMNS=512, num_warps=4,
        )  # fmt: skip


def launch_block_gradient(logits: Tensor, saved: tuple[Tensor, Tensor, Tensor, Tensor], start: int, loss: Loss) -> None:
    """Turns the logits (tokens, columns) of the columns from start into their gradient, in place."""
    tokens, columns = logits.shape
    row_tiles = triton.cdiv(tokens, 8)
    with torch.cuda.device_of(logits):
        block_gradient_kernel[(row_tiles * triton.cdiv(columns, 256),)](
            logits, *saved, tokens, logits.stride(0), start, start + columns, row_tiles,
            loss.ignore_index, MEAN=loss.reduction == "mean", ROWS=8, COLUMNS=256, num_warps=4,
        )  # fmt: skip
