"""Triton kernels of the 8-bit moment: each program has a few whole blocks, so nothing passes between programs."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from muse_kernels.moment_8bit.blocks import BLOCK, LARGEST_STEP
from muse_kernels.products import rounded

BLOCKS = 4  # that a program works on
STEP_LIMIT = tl.constexpr(float(LARGEST_STEP))
VALUES = 1024  # of a step without a moment


@triton.jit
def _followed(steps, scale, gradient, place, inside, block, has_block, momentum, SIZE: tl.constexpr):
    """The new moment (BLOCKS, SIZE) in float32, and the gradient; the state keeps the moment in its steps."""
    value = tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32)
    old = tl.load(steps + place, mask=inside, other=0).to(tl.float32)
    old_scale = tl.load(scale + block, mask=has_block, other=0.0)
    moment = old * old_scale[:, None] * momentum + value * (1 - momentum)
    new_scale = tl.max(tl.abs(moment), 1) / STEP_LIMIT
    # A block of zeros has scale zero; the smallest float in its place keeps zero over zero out.
    counted = moment / tl.maximum(new_scale, 1.1754943508222875e-38)[:, None]
    nearest = tl.where(counted < 0, tl.ceil(counted - 0.5), tl.floor(counted + 0.5))
    tl.store(steps + place, nearest.to(tl.int8), mask=inside)
    tl.store(scale + block, new_scale, mask=has_block)
    return moment, value


@triton.jit
def _move(parameter, place, inside, update, rate, decay, seed, RANDOM: tl.constexpr):
    old = tl.load(parameter + place, mask=inside, other=0.0).to(tl.float32)
    new = old * (1 - tl.load(decay)) - update * tl.load(rate)
    if RANDOM:
        noise = tl.randint(tl.load(seed), place.to(tl.int32)) & 0xFFFF
        bits = (new.to(tl.int32, bitcast=True) + noise.to(tl.int32)) & -65536
        new = bits.to(tl.float32, bitcast=True)
    tl.store(parameter + place, rounded(new, parameter.dtype.element_ty), mask=inside)


@triton.jit
def _direction(steps, scale, gradient, out, count, blocks, momentum, BLOCKS: tl.constexpr, SIZE: tl.constexpr):
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    place = block.to(tl.int64)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    inside = place < count
    moment, value = _followed(steps, scale, gradient, place, inside, block, block < blocks, momentum, SIZE)
    ahead = moment * momentum + value * (1 - momentum)
    tl.store(out + place, rounded(ahead, out.dtype.element_ty), mask=inside)


@triton.jit
def _factored_step(
    parameter,
    steps,
    scale,
    gradient,
    row_factors,
    column_factors,
    rate,
    decay,
    seed,
    count,
    blocks,
    columns,
    momentum,
    RANDOM: tl.constexpr,
    BLOCKS: tl.constexpr,
    SIZE: tl.constexpr,
):
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    place = block.to(tl.int64)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    inside = place < count
    moment, _ = _followed(steps, scale, gradient, place, inside, block, block < blocks, momentum, SIZE)
    row = tl.load(row_factors + place // columns, mask=inside, other=0.0)
    column = tl.load(column_factors + place % columns, mask=inside, other=0.0)
    update = moment * row * column
    root = tl.sqrt(tl.sum(update * update, 1) / SIZE)
    update = update / tl.maximum(root, 1.0)[:, None]
    _move(parameter, place, inside, update, rate, decay, seed, RANDOM)


@triton.jit
def _rounded_step(
    parameter,
    update,
    rate,
    decay,
    seed,
    count,
    columns,
    update_row,
    update_column,
    RANDOM: tl.constexpr,
    VALUES: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64) * VALUES + tl.arange(0, VALUES)
    inside = place < count
    source = place // columns * update_row + place % columns * update_column
    value = tl.load(update + source, mask=inside, other=0.0).to(tl.float32)
    _move(parameter, place, inside, value, rate, decay, seed, RANDOM)


def direction(moment: tuple[Tensor, Tensor], gradient: Tensor, momentum: float, out: Tensor) -> None:
    """As muse_kernels.direction_8bit."""
    steps, scale = moment
    with torch.cuda.device_of(out):
        _direction[(triton.cdiv(scale.numel(), BLOCKS),)](
            steps, scale, gradient, out, gradient.numel(), scale.numel(), momentum, BLOCKS=BLOCKS, SIZE=BLOCK
        )


def factored_step(
    parameter: Tensor,
    moment: tuple[Tensor, Tensor],
    gradient: Tensor,
    factors: tuple[Tensor, Tensor],
    momentum: float,
    scalars: tuple[Tensor, Tensor, Tensor],
) -> None:
    """As muse_kernels.factored_step_8bit_."""
    steps, scale = moment
    with torch.cuda.device_of(parameter):
        _factored_step[(triton.cdiv(scale.numel(), BLOCKS),)](
            *(parameter, steps, scale, gradient, *factors, *scalars),
            *(gradient.numel(), scale.numel(), factors[1].numel(), momentum),
            RANDOM=parameter.dtype == torch.bfloat16,
            BLOCKS=BLOCKS,
            SIZE=BLOCK,
        )


def rounded_step(parameter: Tensor, update: Tensor, scalars: tuple[Tensor, Tensor, Tensor]) -> None:
    """As muse_kernels.rounded_step_."""
    if update.dim() != 2:
        update = update.reshape(1, -1)
    with torch.cuda.device_of(parameter):
        _rounded_step[(triton.cdiv(parameter.numel(), VALUES),)](
            *(parameter, update, *scalars, parameter.numel(), update.shape[1], *update.stride()),
            RANDOM=parameter.dtype == torch.bfloat16,
            VALUES=VALUES,
        )


@triton.jit
def _mean_squares(matrix, by_row, partial, rows, columns, programs, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Each program has every so many tiles of rows; the columns' sums are already divided by the number of rows."""
    row = tl.arange(0, ROWS)
    for first_column in range(0, columns, COLUMNS):
        column = first_column + tl.arange(0, COLUMNS)
        total = tl.zeros((COLUMNS,), tl.float32)
        for start in range(tl.program_id(0) * ROWS, rows, programs * ROWS):
            here = start + row
            place = here.to(tl.int64)[:, None] * columns + column[None, :]
            inside = (here < rows)[:, None] & (column < columns)[None, :]
            value = tl.load(matrix + place, mask=inside, other=0.0).to(tl.float32)
            squares = value * value
            total += tl.sum(squares, 0)
            sums = tl.sum(squares, 1) / columns
            if first_column > 0:
                sums += tl.load(by_row + here, mask=here < rows, other=0.0)
            tl.store(by_row + here, sums, mask=here < rows)
        tl.store(partial + tl.program_id(0) * columns + column, total / rows, mask=column < columns)


def mean_squares(matrix: Tensor, by_row: Tensor, partial: Tensor) -> None:
    """Fills by_row (rows,), and partial (programs, columns), whose sum is the columns' mean squares."""
    rows, columns = matrix.shape
    with torch.cuda.device_of(matrix):
        _mean_squares[(len(partial),)](
            *(matrix, by_row, partial, rows, columns, len(partial)),
            ROWS=16,
            COLUMNS=min(triton.next_power_of_2(columns), 256),
        )
