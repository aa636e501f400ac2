"""Gradients of a narrow head: every logit is computed again in registers, and none is written.

The gradient of x belongs to tiles of tokens that walk the vocabulary, that of the weight to tiles of the
vocabulary that walk the tokens. Both leave the factor grad / tokens to the end, where no small value underflows.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from muse_kernels.linear_cross_entropy.blocks import Tiles
from muse_kernels.linear_cross_entropy.kernel import loss_scale, narrowed, token_factors
from muse_kernels.linear_cross_entropy.softmax import Loss
from muse_kernels.products import dot


@triton.jit
def load_rows(source, rows, stride, row_count, width, ROWS: tl.constexpr, DEPTH: tl.constexpr):
    """(ROWS, DEPTH) rows of a matrix; zeros past its width, copies of the last row past its end."""
    depth = tl.arange(0, DEPTH)
    place = source + tl.minimum(rows, row_count - 1).to(tl.int64)[:, None] * stride + depth[None, :]
    return tl.load(place, mask=(depth < width)[None, :], other=0.0)


@triton.jit
def input_gradient_kernel(
    x,
    weight,
    bias,
    targets,
    statistics,
    grad,
    count,
    grad_x,
    token_count,
    vocab_size,
    width,
    x_stride,
    weight_stride,
    row_tiles,
    splits,
    ignore_index,
    HAS_BIAS: tl.constexpr,
    MEAN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    split = tl.program_id(0) // row_tiles
    rows = tl.program_id(0) % row_tiles * ROWS + tl.arange(0, ROWS)
    top, factor, target = token_factors(statistics, targets, rows, token_count, ignore_index)
    tokens = load_rows(x, rows, x_stride, token_count, width, ROWS, DEPTH)
    tiles = tl.cdiv(vocab_size, COLUMNS)
    result = tl.zeros((ROWS, DEPTH), dtype=tl.float32)
    for tile in range(split * tiles // splits, (split + 1) * tiles // splits):
        columns = tile * COLUMNS + tl.arange(0, COLUMNS)
        rows_of_weight = load_rows(weight, columns, weight_stride, vocab_size, width, COLUMNS, DEPTH)
        logits = dot(tokens, tl.trans(rows_of_weight), tl.zeros((ROWS, COLUMNS), tl.float32))
        if HAS_BIAS:
            logits += tl.load(bias + columns, mask=columns < vocab_size, other=0.0).to(tl.float32)[None, :]
        softmax = tl.exp(logits - top[:, None]) * factor[:, None]
        gradient = softmax - tl.where(columns[None, :] == target[:, None], 1.0, 0.0)
        gradient = tl.where((columns < vocab_size)[None, :], gradient, 0.0)
        result = dot(narrowed(gradient, rows_of_weight.dtype), rows_of_weight, result)
    result = narrowed(result * loss_scale(grad, count, MEAN), grad_x.dtype.element_ty)
    depth = tl.arange(0, DEPTH)
    place = (split.to(tl.int64) * token_count + rows)[:, None] * width + depth[None, :]
    tl.store(grad_x + place, result, mask=(rows < token_count)[:, None] & (depth < width)[None, :])


@triton.jit
def weight_gradient_kernel(
    x,
    weight,
    bias,
    targets,
    statistics,
    grad,
    count,
    grad_weight,
    grad_bias,
    token_count,
    vocab_size,
    width,
    x_stride,
    weight_stride,
    column_tiles,
    splits,
    ignore_index,
    HAS_BIAS: tl.constexpr,
    MEAN: tl.constexpr,
    WEIGHT: tl.constexpr,
    BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    split = tl.program_id(0) // column_tiles
    columns = tl.program_id(0) % column_tiles * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < vocab_size
    rows_of_weight = load_rows(weight, columns, weight_stride, vocab_size, width, COLUMNS, DEPTH)
    if HAS_BIAS:
        offset = tl.load(bias + tl.minimum(columns, vocab_size - 1)).to(tl.float32)
    tiles = tl.cdiv(token_count, ROWS)
    result = tl.zeros((COLUMNS, DEPTH), dtype=tl.float32)
    sums = tl.zeros((COLUMNS,), dtype=tl.float32)
    for tile in range(split * tiles // splits, (split + 1) * tiles // splits):
        rows = tile * ROWS + tl.arange(0, ROWS)
        top, factor, target = token_factors(statistics, targets, rows, token_count, ignore_index)
        tokens = load_rows(x, rows, x_stride, token_count, width, ROWS, DEPTH)
        logits = dot(rows_of_weight, tl.trans(tokens), tl.zeros((COLUMNS, ROWS), tl.float32))
        if HAS_BIAS:
            logits += offset[:, None]
        softmax = tl.exp(logits - top[None, :]) * factor[None, :]
        gradient = softmax - tl.where(columns[:, None] == target[None, :], 1.0, 0.0)
        if WEIGHT:
            result = dot(narrowed(gradient, tokens.dtype), tokens, result)
        if BIAS:
            sums += tl.sum(gradient, 1)
    scale = loss_scale(grad, count, MEAN)
    place = split.to(tl.int64) * vocab_size + columns
    if WEIGHT:
        depth = tl.arange(0, DEPTH)
        mask = inside[:, None] & (depth < width)[None, :]
        wanted = narrowed(result * scale, grad_weight.dtype.element_ty)
        tl.store(grad_weight + place[:, None] * width + depth[None, :], wanted, mask=mask)
    if BIAS:
        tl.store(grad_bias + place, narrowed(sums * scale, grad_bias.dtype.element_ty), mask=inside)


def launch_input_gradient(
    operands: tuple[Tensor, Tensor, Tensor | None],
    saved: tuple[Tensor, Tensor, Tensor, Tensor],
    grad_x: Tensor,
    loss: Loss,
    tiles: Tiles,
) -> None:
    """Fills grad_x (splits, tokens, width) from (x, weight, bias) and (targets, statistics, grad, count)."""
    x, weight, bias = operands
    row_tiles, splits = triton.cdiv(x.shape[0], tiles.rows), grad_x.shape[0]
    with torch.cuda.device_of(x):
        input_gradient_kernel[(row_tiles * splits,)](
            x, weight, bias, *saved, grad_x, x.shape[0], *weight.shape, x.stride(0), weight.stride(0),
            row_tiles, splits, loss.ignore_index,
            HAS_BIAS=bias is not None, MEAN=loss.reduction == "mean",
            ROWS=tiles.rows, COLUMNS=tiles.columns, DEPTH=tiles.depth, num_warps=tiles.warps, num_stages=tiles.stages,
        )  # fmt: skip


def launch_weight_gradient(
    operands: tuple[Tensor, Tensor, Tensor | None],
    saved: tuple[Tensor, Tensor, Tensor, Tensor],
    grad_weight: Tensor | None,
    grad_bias: Tensor | None,
    splits: int,
    loss: Loss,
    tiles: Tiles,
) -> None:
    """Fills those given of grad_weight (splits, vocab_size, width) and grad_bias (splits, vocab_size)."""
    x, weight, bias = operands
    column_tiles = triton.cdiv(weight.shape[0], tiles.columns)
    with torch.cuda.device_of(x):
        weight_gradient_kernel[(column_tiles * splits,)](
            x, weight, bias, *saved, grad_weight, grad_bias,
            x.shape[0], *weight.shape, x.stride(0), weight.stride(0),
            column_tiles, splits, loss.ignore_index,
            HAS_BIAS=bias is not None, MEAN=loss.reduction == "mean",
            WEIGHT=grad_weight is not None, BIAS=grad_bias is not None,
            ROWS=tiles.rows, COLUMNS=tiles.columns, DEPTH=tiles.depth, num_warps=tiles.warps, num_stages=tiles.stages,
        )  # fmt: skip
