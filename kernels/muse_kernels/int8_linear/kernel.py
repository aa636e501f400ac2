"""Products with an INT8 weight that is converted in registers, tile by tile.

Forward computes y^T = W x^T: the left operand of a matrix instruction may lie in registers, where the weight is
converted, and the other streams through shared memory untouched. Its integers are exact in the dtype of x, and the
scale multiplies the float32 sum: this is cheaper than scaling the tile, and spares the rounding of scaled weights.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from muse_kernels.products import dot, from_int8, has_matrix_units, pipeline_stages, rounded

MULTIPROCESSORS = 132
DEQUANTISED = 4096  # values that a program converts: 32 a thread


def launch_forward(x: Tensor, weight_int8: Tensor, scale: Tensor, bias: Tensor | None, y: Tensor) -> None:
    """Fills y (rows, out_features), contiguous, from x (rows, in_features)."""
    (rows, in_features), out_features = x.shape, weight_int8.shape[0]
    with torch.cuda.device_of(x):
        block_out, block_rows, block_in, warps, stages = forward_blocks(rows, out_features, x)
        programs = triton.cdiv(rows, block_rows) * triton.cdiv(out_features, block_out)
        _forward[(programs,)](
            *(x, weight_int8, scale, scale if bias is None else bias, y, rows, out_features, in_features),
            *(*x.stride(), *weight_int8.stride(), scale.stride(0), 0 if bias is None else bias.stride(0)),
            BIAS=bias is not None,
            EVEN=in_features % block_in == 0,
            BLOCK_OUT=block_out,
            BLOCK_ROWS=block_rows,
            BLOCK_IN=block_in,
            num_warps=warps,
            num_stages=stages,
        )


def launch_backward(grad: Tensor, weight_int8: Tensor, scale: Tensor, grad_x: Tensor) -> None:
    """Fills grad_x (rows, in_features), contiguous, from grad (rows, out_features)."""
    (rows, out_features), in_features = grad.shape, weight_int8.shape[1]
    with torch.cuda.device_of(grad):
        block_rows, block_in, block_out, warps, stages = backward_blocks(rows, in_features, grad)
        programs = triton.cdiv(rows, block_rows) * triton.cdiv(in_features, block_in)
        _backward[(programs,)](
            *(grad, weight_int8, scale, grad_x, rows, out_features, in_features),
            *(*grad.stride(), *weight_int8.stride(), scale.stride(0)),
            EVEN=out_features % block_out == 0,
            BLOCK_ROWS=block_rows,
            BLOCK_IN=block_in,
            BLOCK_OUT=block_out,
            num_warps=warps,
            num_stages=stages,
        )


def launch_dequantise(weight_int8: Tensor, scale: Tensor, block: Tensor) -> None:
    """Fills block (rows, columns), contiguous, with weight_int8 * scale, rounded as the definition rounds it."""
    rows, columns = block.shape
    block_rows, block_columns = dequantise_blocks(weight_int8)
    with torch.cuda.device_of(block):
        _dequantise[(triton.cdiv(rows, block_rows), triton.cdiv(columns, block_columns))](
            *(weight_int8, scale, block, rows, columns, *weight_int8.stride(), scale.stride(0)),
            BLOCK_ROWS=block_rows,
            BLOCK_COLUMNS=block_columns,
            num_warps=4,
        )


def dequantise_blocks(weight_int8: Tensor) -> tuple[int, int]:
    """BLOCK_ROWS, BLOCK_COLUMNS: long rows; where a column lies together, a square, read down and written across."""
    if weight_int8.stride(0) == 1 and weight_int8.stride(1) != 1:
        return 64, DEQUANTISED // 64
    block_columns = min(triton.next_power_of_2(weight_int8.shape[1]), 512)
    return DEQUANTISED // block_columns, block_columns


def forward_blocks(rows: int, out_features: int, x: Tensor) -> tuple[int, int, int, int, int]:
    """BLOCK_OUT, BLOCK_ROWS, BLOCK_IN, warps and stages.

    Few rows: the weight is streamed once, by many programs with long tiles. Many: two programs of 128 x 128 fit a
    multiprocessor, and one converts while the other multiplies; smaller ones where those would be too few.
    """
    if not has_matrix_units(x):
        block_out, block_rows, block_in = (32, 16, 64) if rows <= 16 else (64, 64, 16)
    elif rows <= 16:
        block_out, block_rows, block_in = 32, 16, 256
    elif rows > 64 and triton.cdiv(rows, 128) * triton.cdiv(out_features, 128) >= MULTIPROCESSORS:
        block_out, block_rows, block_in = 128, 128, 64
    else:
        block_out, block_rows, block_in = 64, 32 if rows <= 32 else 64, 128
    stage_bytes = block_in * (block_out + block_rows * x.element_size())
    return block_out, block_rows, block_in, 4, pipeline_stages(stage_bytes, 0, x)


def backward_blocks(rows: int, in_features: int, grad: Tensor) -> tuple[int, int, int, int, int]:
    """BLOCK_ROWS, BLOCK_IN, BLOCK_OUT, warps and stages."""
    if not has_matrix_units(grad):
        block_rows, block_in, block_out = (16, 32, 32) if rows <= 16 else (64, 64, 16)
    elif rows <= 16:
        block_rows, block_in, block_out = 16, 64, 128
    elif rows > 64 and triton.cdiv(rows, 128) * triton.cdiv(in_features, 128) >= MULTIPROCESSORS:
        block_rows, block_in, block_out = 128, 128, 64
    else:
        block_rows, block_in, block_out = 64, 64, 64
    warps = 8 if block_rows == 128 else 4
    stage_bytes = block_out * (block_in + block_rows * grad.element_size())
    converted_bytes = block_out * block_in * grad.element_size()
    return block_rows, block_in, block_out, warps, pipeline_stages(stage_bytes, converted_bytes, grad)


@triton.jit
def _dequantise(
    weight,
    scale,
    block,
    rows,
    columns,
    weight_row,
    weight_column,
    scale_stride,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(1).to(tl.int64) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    mask = (row < rows)[:, None] & (column < columns)[None, :]
    w = tl.load(weight + ((row * weight_row)[:, None] + (column * weight_column)[None, :]), mask=mask, other=0)
    factor = tl.load(scale + row * scale_stride, mask=row < rows, other=0.0).to(tl.float32)
    scaled = rounded(w.to(tl.float32) * factor[:, None], block.dtype.element_ty)
    tl.store(block + ((row * columns)[:, None] + column[None, :]), scaled, mask=mask)


@triton.jit
def _block_ids(row_blocks, other_blocks, GROUP: tl.constexpr):
    """Programs side by side share blocks: GROUP blocks of rows go through all other blocks together."""
    program = tl.program_id(0)
    group = program // (GROUP * other_blocks)
    size = tl.minimum(row_blocks - group * GROUP, GROUP)
    within = program - group * GROUP * other_blocks
    return group * GROUP + within % size, within // size


@triton.jit
def _forward(
    x,
    weight,
    scale,
    bias,
    y,
    rows,
    out_features,
    in_features,
    x_row,
    x_column,
    weight_row,
    weight_column,
    scale_stride,
    bias_stride,
    BIAS: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
):
    row_block, out_block = _block_ids(tl.cdiv(rows, BLOCK_ROWS), tl.cdiv(out_features, BLOCK_OUT), 8)
    row = row_block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    out = out_block * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    column = tl.arange(0, BLOCK_IN)
    # Past the end the first rows are read again, and never stored: no masks in the loop.
    weight += ((out % out_features).to(tl.int64) * weight_row)[:, None] + (column * weight_column)[None, :]
    x += ((row % rows).to(tl.int64) * x_row)[None, :] + (column * x_column)[:, None]
    factor = tl.load(scale + (out % out_features) * scale_stride).to(tl.float32)

    total = tl.zeros((BLOCK_OUT, BLOCK_ROWS), tl.float32)
    for start in range(0, in_features, BLOCK_IN):
        if EVEN:
            w = tl.load(weight)
            columns = tl.load(x)
        else:
            inside = start + column < in_features
            w = tl.load(weight, mask=inside[None, :], other=0)
            columns = tl.load(x, mask=inside[:, None], other=0.0)
        total = dot(from_int8(w, columns.dtype), columns, total)
        weight += BLOCK_IN * weight_column
        x += BLOCK_IN * x_column

    total *= factor[:, None]
    if BIAS:
        total += tl.load(bias + (out % out_features) * bias_stride).to(tl.float32)[:, None]
    offsets = row.to(tl.int64)[None, :] * out_features + out[:, None]
    tl.store(
        y + offsets, rounded(total, y.dtype.element_ty), mask=(row < rows)[None, :] & (out < out_features)[:, None]
    )


@triton.jit
def _backward(
    grad,
    weight,
    scale,
    grad_x,
    rows,
    out_features,
    in_features,
    grad_row,
    grad_column,
    weight_row,
    weight_column,
    scale_stride,
    EVEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    """The scale lies along the sum, so it multiplies the tile of the weight, rounded as the definition rounds it.

    A gradient times the scale would underflow in float16.
    """
    row_block, in_block = _block_ids(tl.cdiv(rows, BLOCK_ROWS), tl.cdiv(in_features, BLOCK_IN), 8)
    row = row_block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = in_block * BLOCK_IN + tl.arange(0, BLOCK_IN)
    out = tl.arange(0, BLOCK_OUT)
    # Past the end the first rows and columns are read again, and never stored.
    grad += ((row % rows).to(tl.int64) * grad_row)[:, None] + (out * grad_column)[None, :]
    weight += (out.to(tl.int64) * weight_row)[:, None] + ((column % in_features).to(tl.int64) * weight_column)[None, :]
    scale += out * scale_stride

    total = tl.zeros((BLOCK_ROWS, BLOCK_IN), tl.float32)
    for start in range(0, out_features, BLOCK_OUT):
        if EVEN:
            g, w, factor = tl.load(grad), tl.load(weight), tl.load(scale)
        else:
            inside = start + out < out_features
            g = tl.load(grad, mask=inside[None, :], other=0.0)
            w = tl.load(weight, mask=inside[:, None], other=0)
            factor = tl.load(scale, mask=inside, other=0.0)
        scaled = rounded(w.to(tl.float32) * factor.to(tl.float32)[:, None], g.dtype)
        total = dot(g, scaled, total)
        grad += BLOCK_OUT * grad_column
        weight += BLOCK_OUT * weight_row
        scale += BLOCK_OUT * scale_stride

    offsets = row.to(tl.int64)[:, None] * in_features + column[None, :]
    mask = (row < rows)[:, None] & (column < in_features)[None, :]
    tl.store(grad_x + offsets, rounded(total, grad_x.dtype.element_ty), mask=mask)
