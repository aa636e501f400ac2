"""Feed-forward of low rank, a block of tokens a program: narrow vectors stay in registers, wide ones in tiles."""

import triton
import triton.language as tl

from muse_kernels.products import dot, rounded


@triton.jit
def activate(pre, GELU: tl.constexpr):
    if GELU:
        return 0.5 * pre * (1 + tl.erf(pre * 0.7071067811865476))
    return tl.where(pre <= 0, 0.0, pre)


@triton.jit
def activate_backward(grad, pre, GELU: tl.constexpr):
    if GELU:
        density = 0.3989422804014327 * tl.exp(-0.5 * pre * pre)
        return grad * (0.5 * (1 + tl.erf(pre * 0.7071067811865476)) + pre * density)
    return tl.where(pre <= 0, 0.0, grad)


@triton.jit
def load_tile(matrix, row, column, rows, columns, row_stride, column_stride):
    """matrix[row, column], zero outside (rows, columns)."""
    offsets = row[:, None] * row_stride + column[None, :] * column_stride
    return tl.load(matrix + offsets, mask=(row < rows)[:, None] & (column < columns)[None, :], other=0.0)


@triton.jit
def load_bias(bias, column, columns):
    return tl.load(bias + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]


@triton.jit
def store_tile(matrix, row, column, rows, columns, value):
    """matrix[row, column] = value, rounded; the matrix is contiguous."""
    mask = (row < rows)[:, None] & (column < columns)[None, :]
    tl.store(matrix + row[:, None] * columns + column[None, :], rounded(value, matrix.dtype.element_ty), mask=mask)


@triton.jit
def store_sum(partial, column, columns, value):
    """The sum over the block's tokens, which is this program's share of a bias's gradient."""
    tl.store(partial + column, tl.sum(value.to(tl.float32), axis=0), mask=column < columns)


@triton.jit
def forward_kernel(
    x,
    weight1,
    bias1,
    weight2,
    bias2,
    weight3,
    bias3,
    weight_last,
    bias_last,
    narrow1,
    narrow3,
    y,
    tokens,
    width,
    rank,
    wide,
    x_row,
    x_column,
    FOUR: tl.constexpr,
    GELU: tl.constexpr,
    RANK: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_WIDE: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, RANK)
    dtype = y.dtype.element_ty

    pre = tl.zeros((BLOCK, RANK), tl.float32)
    for start in range(0, width, BLOCK_WIDTH):
        column = start + tl.arange(0, BLOCK_WIDTH)
        tile = load_tile(x, token, column, tokens, width, x_row, x_column)
        pre = dot(tile, tl.trans(load_tile(weight1, k, column, rank, width, width, 1)), pre)
    # Rounded as it is saved, so that backward sees what forward saw.
    pre = rounded(pre + load_bias(bias1, k, rank), dtype)
    store_tile(narrow1, token, k, tokens, rank, pre)
    hidden = rounded(activate(pre.to(tl.float32), GELU), dtype)

    if FOUR:
        total = tl.zeros((BLOCK, RANK), tl.float32)
        for start in range(0, wide, BLOCK_WIDE):
            column = start + tl.arange(0, BLOCK_WIDE)
            up = load_tile(weight2, column, k, wide, rank, rank, 1)
            tile = dot(hidden, tl.trans(up), tl.zeros((BLOCK, BLOCK_WIDE), tl.float32))
            tile = rounded(activate(tile + load_bias(bias2, column, wide), GELU), dtype)
            total = dot(tile, tl.trans(load_tile(weight3, k, column, rank, wide, wide, 1)), total)
        pre = rounded(total + load_bias(bias3, k, rank), dtype)
        store_tile(narrow3, token, k, tokens, rank, pre)
        hidden = rounded(activate(pre.to(tl.float32), GELU), dtype)

    for start in range(0, width, BLOCK_WIDTH):
        column = start + tl.arange(0, BLOCK_WIDTH)
        last = load_tile(weight_last, column, k, width, rank, rank, 1)
        out = dot(hidden, tl.trans(last), tl.zeros((BLOCK, BLOCK_WIDTH), tl.float32))
        store_tile(y, token, column, tokens, width, out + load_bias(bias_last, column, width))


@triton.jit
def backward_kernel(
    grad,
    weight1,
    weight2,
    bias2,
    weight3,
    weight_last,
    narrow1,
    narrow_last,
    hidden1,
    hidden_last,
    grad_narrow1,
    grad_narrow_last,
    grad_x,
    partial,
    tokens,
    width,
    rank,
    wide,
    shares,
    FOUR: tl.constexpr,
    GELU: tl.constexpr,
    RANK: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_WIDE: tl.constexpr,
):
    """grad_x; what the weights' gradients are products of; shares of the biases' gradients, the last bias's first."""
    token = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, RANK)
    dtype = grad_x.dtype.element_ty
    partial += tl.program_id(0).to(tl.int64) * shares

    total = tl.zeros((BLOCK, RANK), tl.float32)
    for start in range(0, width, BLOCK_WIDTH):
        column = start + tl.arange(0, BLOCK_WIDTH)
        tile = load_tile(grad, token, column, tokens, width, width, 1)
        total = dot(tile, load_tile(weight_last, column, k, width, rank, rank, 1), total)
        store_sum(partial, column, width, tile)
    pre = load_tile(narrow_last, token, k, tokens, rank, rank, 1).to(tl.float32)
    store_tile(hidden_last, token, k, tokens, rank, activate(pre, GELU))
    grad_pre = rounded(activate_backward(total, pre, GELU), dtype)
    store_tile(grad_narrow_last, token, k, tokens, rank, grad_pre)
    store_sum(partial + width, k, rank, grad_pre)

    if FOUR:
        pre = load_tile(narrow1, token, k, tokens, rank, rank, 1).to(tl.float32)
        hidden = rounded(activate(pre, GELU), dtype)
        store_tile(hidden1, token, k, tokens, rank, hidden)
        total = tl.zeros((BLOCK, RANK), tl.float32)
        for start in range(0, wide, BLOCK_WIDE):
            column = start + tl.arange(0, BLOCK_WIDE)
            up = load_tile(weight2, column, k, wide, rank, rank, 1)
            zeros = tl.zeros((BLOCK, BLOCK_WIDE), tl.float32)
            inner = dot(hidden, tl.trans(up), zeros) + load_bias(bias2, column, wide)
            slope = dot(grad_pre, load_tile(weight3, k, column, rank, wide, wide, 1), zeros)
            total = dot(rounded(activate_backward(slope, inner, GELU), dtype), up, total)
        grad_pre = rounded(activate_backward(total, pre, GELU), dtype)
        store_tile(grad_narrow1, token, k, tokens, rank, grad_pre)
        store_sum(partial + width + rank, k, rank, grad_pre)

    for start in range(0, width, BLOCK_WIDTH):
        column = start + tl.arange(0, BLOCK_WIDTH)
        first = load_tile(weight1, k, column, rank, width, width, 1)
        tile = dot(grad_pre, first, tl.zeros((BLOCK, BLOCK_WIDTH), tl.float32))
        store_tile(grad_x, token, column, tokens, width, tile)


@triton.jit
def wide_weights_kernel(
    hidden,
    grad_narrow,
    weight2,
    bias2,
    weight3,
    partial,
    tokens,
    rank,
    wide,
    split_tokens,
    GELU: tl.constexpr,
    RANK: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_WIDE: tl.constexpr,
):
    """Shares of the gradients of weight2, weight3 and bias2: some wide columns over some tokens.

    Wide tiles are transposed, (wide, tokens): so they are left operands, which may stay in registers.
    """
    column = tl.program_id(0) * BLOCK_WIDE + tl.arange(0, BLOCK_WIDE)
    k = tl.arange(0, RANK)
    first = tl.program_id(1) * split_tokens
    up = load_tile(weight2, column, k, wide, rank, rank, 1)
    down = load_tile(weight3, column, k, wide, rank, 1, wide)
    offset = tl.load(bias2 + column, mask=column < wide, other=0.0).to(tl.float32)[:, None]

    grad_up = tl.zeros((BLOCK_WIDE, RANK), tl.float32)
    grad_down = tl.zeros((BLOCK_WIDE, RANK), tl.float32)
    grad_bias = tl.zeros((BLOCK_WIDE,), tl.float32)
    for start in range(first, tl.minimum(first + split_tokens, tokens), BLOCK):
        token = start + tl.arange(0, BLOCK).to(tl.int64)
        # Past the last token the gradient is zero, and with it every share.
        narrow = load_tile(hidden, token, k, tokens, rank, rank, 1)
        slope = load_tile(grad_narrow, token, k, tokens, rank, rank, 1)
        zeros = tl.zeros((BLOCK_WIDE, BLOCK), tl.float32)
        inner = dot(up, tl.trans(narrow), zeros) + offset
        grad_down = dot(rounded(activate(inner, GELU), slope.dtype), slope, grad_down)
        grad_inner = activate_backward(dot(down, tl.trans(slope), zeros), inner, GELU)
        grad_bias += tl.sum(grad_inner, axis=1)
        grad_up = dot(rounded(grad_inner, narrow.dtype), narrow, grad_up)

    partial += tl.program_id(1).to(tl.int64) * wide * (2 * rank + 1)
    store_tile(partial, column, k, wide, rank, grad_up)
    mask = (column < wide)[:, None] & (k < rank)[None, :]
    tl.store(partial + wide * rank + k[None, :] * wide + column[:, None], grad_down, mask=mask)
    tl.store(partial + 2 * wide * rank + column, grad_bias, mask=column < wide)
