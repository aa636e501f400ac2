"""RMSNorm of rows held in registers; a row too wide for that is read twice, in blocks of columns."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from muse_kernels.partials import sum_partials
from muse_kernels.products import rounded
from muse_kernels.rms_norm.tiles import tile


def launch_forward(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, out: tuple[Tensor, ...]) -> None:
    """Fills y (rows, width), the sum x + residual if there is one, and rstd (rows,)."""
    y, total, rstd = out
    rows, width = x.shape
    tile_rows, block, warps = tile(rows, width)
    added = x if residual is None else residual
    with torch.cuda.device_of(x):
        _forward[(triton.cdiv(rows, tile_rows),)](
            *(x, added, weight, y, total, rstd, rows, width, eps),
            *(*x.stride(), *added.stride(), weight.stride(0)),
            RESIDUAL=residual is not None,
            WHOLE=block >= width,
            ROWS=tile_rows,
            BLOCK=block,
            num_warps=warps,
        )


def launch_backward(
    grad: Tensor, grad_total: Tensor | None, saved: tuple[Tensor, Tensor, Tensor], grad_x: Tensor, partial: Tensor
) -> None:
    """Fills grad_x (rows, width), and partial (programs, width) with shares of the weight's gradient."""
    x, weight, rstd = saved
    rows, width = x.shape
    tile_rows, block, warps = tile(rows, width)
    added = grad if grad_total is None else grad_total
    with torch.cuda.device_of(x):
        _backward[(partial.shape[0],)](
            *(grad, added, x, weight, rstd, grad_x, partial, rows, width),
            *(*grad.stride(), *added.stride(), *x.stride(), weight.stride(0)),
            TOTAL=grad_total is not None,
            WHOLE=block >= width,
            ROWS=tile_rows,
            BLOCK=block,
            num_warps=warps,
        )


def launch_sum(partial: Tensor, grad_weight: Tensor) -> None:
    """The weight's gradient: the sum of the programs' shares."""
    sum_partials(partial, grad_weight)


@triton.jit
def _load_sum(x, residual, x_offsets, residual_offsets, mask, RESIDUAL: tl.constexpr):
    """x + residual, rounded as it is stored."""
    value = tl.load(x + x_offsets, mask=mask, other=0.0)
    if RESIDUAL:
        other = tl.load(residual + residual_offsets, mask=mask, other=0.0)
        value = rounded(value.to(tl.float32) + other.to(tl.float32), x.dtype.element_ty)
    return value


@triton.jit
def _forward(
    x,
    residual,
    weight,
    y,
    total,
    rstd,
    rows,
    width,
    eps,
    x_row,
    x_column,
    residual_row,
    residual_column,
    weight_stride,
    RESIDUAL: tl.constexpr,
    WHOLE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    in_rows = (row < rows)[:, None]
    mask = in_rows & (column < width)[None, :]
    x += (row * x_row)[:, None]
    residual += (row * residual_row)[:, None]
    out = (row * width)[:, None] + column[None, :]

    value = _load_sum(x, residual, column * x_column, column * residual_column, mask, RESIDUAL)
    wide = value.to(tl.float32)
    squares = tl.sum(wide * wide, axis=1)
    if not WHOLE:
        for start in range(BLOCK, width, BLOCK):
            more = start + column
            inside = in_rows & (more < width)[None, :]
            block = _load_sum(x, residual, more * x_column, more * residual_column, inside, RESIDUAL).to(tl.float32)
            squares += tl.sum(block * block, axis=1)
    scale = tl.rsqrt(squares / width + eps)
    tl.store(rstd + row, scale, mask=row < rows)

    factor = tl.load(weight + column * weight_stride, mask=column < width, other=0.0).to(tl.float32)
    tl.store(y + out, rounded(wide * scale[:, None] * factor[None, :], y.dtype.element_ty), mask=mask)
    if RESIDUAL:
        tl.store(total + out, value, mask=mask)
    if not WHOLE:
        for start in range(BLOCK, width, BLOCK):
            more = start + column
            inside = in_rows & (more < width)[None, :]
            block = _load_sum(x, residual, more * x_column, more * residual_column, inside, RESIDUAL)
            factor = tl.load(weight + more * weight_stride, mask=more < width, other=0.0).to(tl.float32)
            normed = block.to(tl.float32) * scale[:, None] * factor[None, :]
            tl.store(y + out + start, rounded(normed, y.dtype.element_ty), mask=inside)
            if RESIDUAL:
                tl.store(total + out + start, block, mask=inside)


@triton.jit
def _load_normal(x, grad, weight, x_offsets, grad_offsets, weight_offsets, scale, mask, in_width):
    """n = x * rstd, the output's gradient g, and w * g, in float32."""
    normal = tl.load(x + x_offsets, mask=mask, other=0.0).to(tl.float32) * scale[:, None]
    g = tl.load(grad + grad_offsets, mask=mask, other=0.0).to(tl.float32)
    factor = tl.load(weight + weight_offsets, mask=in_width, other=0.0).to(tl.float32)
    return normal, g, g * factor[None, :]


@triton.jit
def _store_grad(grad_x, grad_total, offsets, total_offsets, inner, mask, TOTAL: tl.constexpr):
    if TOTAL:
        inner += tl.load(grad_total + total_offsets, mask=mask, other=0.0).to(tl.float32)
    tl.store(grad_x + offsets, rounded(inner, grad_x.dtype.element_ty), mask=mask)


@triton.jit
def _backward(
    grad,
    grad_total,
    x,
    weight,
    rstd,
    grad_x,
    partial,
    rows,
    width,
    grad_row,
    grad_column,
    total_row,
    total_column,
    x_row,
    x_column,
    weight_stride,
    TOTAL: tl.constexpr,
    WHOLE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """rstd * (w g - n mean(n w g)) + the sum's own gradient; each program adds up n g over its tiles of rows."""
    column = tl.arange(0, BLOCK)
    share = partial + tl.program_id(0).to(tl.int64) * width + column
    grad_weight = tl.zeros((ROWS, BLOCK), tl.float32)
    for tile_index in range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        row = tile_index * ROWS + tl.arange(0, ROWS).to(tl.int64)
        in_rows = (row < rows)[:, None]
        scale = tl.load(rstd + row, mask=row < rows, other=0.0)
        x_rows, grad_rows = x + (row * x_row)[:, None], grad + (row * grad_row)[:, None]
        total_rows, out = grad_total + (row * total_row)[:, None], (row * width)[:, None] + column[None, :]

        in_width = column < width
        mask = in_rows & in_width[None, :]
        normal, g, inner = _load_normal(
            x_rows,
            grad_rows,
            weight,
            column * x_column,
            column * grad_column,
            column * weight_stride,
            scale,
            mask,
            in_width,
        )
        mean = tl.sum(normal * inner, axis=1)
        if not WHOLE:
            for start in range(BLOCK, width, BLOCK):
                more = start + column
                in_width = more < width
                n, _, w_g = _load_normal(
                    x_rows,
                    grad_rows,
                    weight,
                    more * x_column,
                    more * grad_column,
                    more * weight_stride,
                    scale,
                    in_rows & in_width[None, :],
                    in_width,
                )
                mean += tl.sum(n * w_g, axis=1)
        mean /= width

        grad_weight += normal * g
        inner = (inner - normal * mean[:, None]) * scale[:, None]
        _store_grad(grad_x, total_rows, out, column * total_column, inner, mask, TOTAL)
        if not WHOLE:
            # These columns' shares live in memory: a barrier lets every thread see what another one added.
            tl.debug_barrier()
            for start in range(BLOCK, width, BLOCK):
                more = start + column
                in_width = more < width
                mask = in_rows & in_width[None, :]
                n, g, w_g = _load_normal(
                    x_rows,
                    grad_rows,
                    weight,
                    more * x_column,
                    more * grad_column,
                    more * weight_stride,
                    scale,
                    mask,
                    in_width,
                )
                before = tl.load(share + start, mask=in_width, other=0.0)
                before = tl.where(tile_index >= tl.num_programs(0), before, 0.0)  # before its first tile: whatever
                tl.store(share + start, before + tl.sum(n * g, axis=0), mask=in_width)
                w_g = (w_g - n * mean[:, None]) * scale[:, None]
                _store_grad(grad_x, total_rows, out + start, more * total_column, w_g, mask, TOTAL)
    tl.store(share, tl.sum(grad_weight, axis=0), mask=column < width)
