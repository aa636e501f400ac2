"""Triton kernels of the steps. A program has whole blocks of a moment, so that nothing passes between programs."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from muse_kernels.moment_8bit.blocks import BLOCK, LARGEST_STEP
from muse_kernels.moment_8bit.rates import Rates
from muse_kernels.products import rounded

BLOCKS = 4  # that a program works on
VALUES = 1024  # of a step without a moment
MOST_COLUMNS = 256  # of a tile of squares
STEP_LIMIT = tl.constexpr(float(LARGEST_STEP))
TINY = tl.constexpr(1.1754943508222875e-38)
SEED_STRIDE = tl.constexpr(1_000_003)  # between counts, so that salted seeds do not meet


@triton.jit
def _followed(steps, scale, gradient, place, inside, block, has_block, momentum):
    """The new moment (blocks, values) in float32, and the gradient; the state keeps the moment in its steps."""
    value = tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32)
    old = tl.load(steps + place, mask=inside, other=0).to(tl.float32)
    old_scale = tl.load(scale + block, mask=has_block, other=0.0)
    moment = old * old_scale[:, None] * momentum + value * (1 - momentum)
    new_scale = tl.max(tl.abs(moment), 1) / STEP_LIMIT
    # A block of zeros has scale zero; the smallest float in its place keeps zero over zero out.
    counted = moment / tl.maximum(new_scale, TINY)[:, None]
    nearest = tl.where(counted < 0, tl.ceil(counted - 0.5), tl.floor(counted + 0.5))
    tl.store(steps + place, nearest.to(tl.int8), mask=inside)
    tl.store(scale + block, new_scale, mask=has_block)
    return moment, value


@triton.jit
def _move(parameter, place, inside, update, lr, scale, decay, seed, RANDOM: tl.constexpr):
    rate = tl.load(lr)
    old = tl.load(parameter + place, mask=inside, other=0.0).to(tl.float32)
    new = old * (1 - rate * decay) - update * (rate * scale)
    if RANDOM:
        noise = tl.randint(seed, place.to(tl.int32)) & 0xFFFF
        bits = (new.to(tl.int32, bitcast=True) + noise.to(tl.int32)) & -65536
        new = bits.to(tl.float32, bitcast=True)
    tl.store(parameter + place, rounded(new, parameter.dtype.element_ty), mask=inside)


@triton.jit
def _ahead(steps, log_momentum, log_beta2):
    """What makes up for moments that began with zero: sqrt(1 - beta2^steps) / (1 - momentum^steps)."""
    done = steps.to(tl.float32)
    return tl.sqrt(1 - tl.exp(done * log_beta2)) / (1 - tl.exp(done * log_momentum))


@triton.jit
def _direction(steps, scale, gradient, count, out, size, blocks, momentum, BLOCKS: tl.constexpr, SIZE: tl.constexpr):
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    place = block.to(tl.int64)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    inside = place < size
    moment, value = _followed(steps, scale, gradient, place, inside, block, block < blocks, momentum)
    ahead = moment * momentum + value * (1 - momentum)
    tl.store(out + place, rounded(ahead, out.dtype.element_ty), mask=inside)
    if tl.program_id(0) == 0:
        tl.store(count, tl.load(count) + 1)


@triton.jit
def _rounded_step(
    parameter,
    update,
    count,
    lr,
    size,
    columns,
    update_row,
    update_column,
    scale,
    decay,
    salt,
    RANDOM: tl.constexpr,
    VALUES: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64) * VALUES + tl.arange(0, VALUES)
    inside = place < size
    source = place // columns * update_row + place % columns * update_column
    value = tl.load(update + source, mask=inside, other=0.0).to(tl.float32)
    _move(parameter, place, inside, value, lr, scale, decay, tl.load(count) * SEED_STRIDE + salt, RANDOM)


@triton.jit
def _row_moments(gradient, by_row, partial, rows, columns, programs, beta2, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Follows the rows' mean squares, every so many tiles a program; leaves its share of the columns'."""
    row = tl.arange(0, ROWS)
    for start in range(tl.program_id(0) * ROWS, rows, programs * ROWS):
        here = start + row
        sums = tl.zeros((ROWS,), tl.float32)
        for first in range(0, columns, COLUMNS):
            column = first + tl.arange(0, COLUMNS)
            place = here.to(tl.int64)[:, None] * columns + column[None, :]
            inside = (here < rows)[:, None] & (column < columns)[None, :]
            value = tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32)
            squares = value * value
            sums += tl.sum(squares, 1)
            share = partial + tl.program_id(0) * columns + column
            total = tl.sum(squares, 0)
            if start >= programs * ROWS:
                total += tl.load(share, mask=column < columns, other=0.0)
            tl.store(share, total, mask=column < columns)
        old = tl.load(by_row + here, mask=here < rows, other=0.0)
        tl.store(by_row + here, old * beta2 + sums / columns * (1 - beta2), mask=here < rows)


@triton.jit
def _column_moments(
    partial, by_column, count, programs, rows, columns, beta2, PROGRAMS: tl.constexpr, COLUMNS: tl.constexpr
):
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    program = tl.arange(0, PROGRAMS)
    inside = (program < programs)[:, None] & (column < columns)[None, :]
    share = tl.load(partial + program[:, None] * columns + column[None, :], mask=inside, other=0.0)
    old = tl.load(by_column + column, mask=column < columns, other=0.0)
    new = old * beta2 + tl.sum(share, 0) / rows * (1 - beta2)
    tl.store(by_column + column, new, mask=column < columns)
    if tl.program_id(0) == 0:
        tl.store(count, tl.load(count) + 1)


@triton.jit
def _factored_step(
    parameter,
    steps,
    scale,
    gradient,
    by_row,
    by_column,
    count,
    lr,
    size,
    blocks,
    columns,
    momentum,
    log_momentum,
    log_beta2,
    rate_scale,
    decay,
    salt,
    least,
    RANDOM: tl.constexpr,
    BLOCKS: tl.constexpr,
    SIZE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    mean = tl.zeros((COLUMNS,), tl.float32)
    for first in range(0, columns, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        mean += tl.load(by_column + column, mask=column < columns, other=0.0)
    mean_square = tl.maximum(tl.sum(mean, 0) / columns, least)
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    place = block.to(tl.int64)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    inside = place < size
    moment, _ = _followed(steps, scale, gradient, place, inside, block, block < blocks, momentum)
    row = tl.load(by_row + place // columns, mask=inside, other=0.0)
    spread = row * (tl.load(by_column + place % columns, mask=inside, other=0.0) / mean_square)
    done = tl.load(count)
    update = moment * _ahead(done, log_momentum, log_beta2) * tl.rsqrt(tl.maximum(spread, least))
    update = tl.where(inside, update, 0.0)
    root = tl.sqrt(tl.sum(update * update, 1) / SIZE)
    update = update / tl.maximum(root, 1.0)[:, None]
    _move(parameter, place, inside, update, lr, rate_scale, decay, done * SEED_STRIDE + salt, RANDOM)


@triton.jit
def _small_step(
    parameter,
    gradient,
    first,
    second,
    count,
    lr,
    size,
    momentum,
    beta2,
    log_momentum,
    log_beta2,
    scale,
    decay,
    salt,
    least,
    RANDOM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    place = tl.arange(0, BLOCK)
    inside = place < size
    done = tl.load(count) + 1
    value = tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32)
    mean = tl.load(first + place, mask=inside, other=0.0) * momentum + value * (1 - momentum)
    square = tl.load(second + place, mask=inside, other=0.0) * beta2 + value * value * (1 - beta2)
    tl.store(first + place, mean, mask=inside)
    tl.store(second + place, square, mask=inside)
    update = mean * _ahead(done, log_momentum, log_beta2) * tl.rsqrt(tl.maximum(square, least))
    root = tl.sqrt(tl.sum(update * update, 0) / size)
    _move(parameter, place, inside, update / tl.maximum(root, 1.0), lr, scale, decay, done * SEED_STRIDE + salt, RANDOM)
    tl.store(count, done)


@triton.jit
def _combine(x, y, z, size, a, b, c, VALUES: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * VALUES + tl.arange(0, VALUES)
    inside = place < size
    total = tl.load(x + place, mask=inside, other=0.0).to(tl.float32) * a
    total += tl.load(y + place, mask=inside, other=0.0).to(tl.float32) * b
    total += tl.load(z + place, mask=inside, other=0.0).to(tl.float32) * c
    tl.store(x + place, rounded(total, x.dtype.element_ty), mask=inside)


def combine(x: Tensor, y: Tensor, z: Tensor, factors: tuple[float, float, float]) -> None:
    """As muse_kernels.moment_8bit.combine_, of contiguous tensors."""
    with torch.cuda.device_of(x):
        _combine[(triton.cdiv(x.numel(), VALUES),)](x, y, z, x.numel(), *factors, VALUES=VALUES)


def direction(moment: tuple[Tensor, Tensor], gradient: Tensor, count: Tensor, momentum: float, out: Tensor) -> None:
    """As muse_kernels.moment_8bit.direction_8bit_."""
    steps, scale = moment
    with torch.cuda.device_of(out):
        _direction[(triton.cdiv(scale.numel(), BLOCKS),)](
            *(steps, scale, gradient, count, out, gradient.numel(), scale.numel(), momentum), BLOCKS=BLOCKS, SIZE=BLOCK
        )


def rounded_step(parameter: Tensor, update: Tensor, count: Tensor, lr: Tensor, rates: Rates) -> None:
    """As muse_kernels.moment_8bit.rounded_step_."""
    if update.dim() != 2:
        update = update.reshape(1, -1)
    with torch.cuda.device_of(parameter):
        _rounded_step[(triton.cdiv(parameter.numel(), VALUES),)](
            *(parameter, update, count, lr, parameter.numel(), update.shape[1], *update.stride()),
            *(rates.scale, rates.decay, rates.salt),
            RANDOM=parameter.dtype == torch.bfloat16,
            VALUES=VALUES,
        )


def second_moments(
    gradient: Tensor, second: tuple[Tensor, Tensor], count: Tensor, partial: Tensor, rates: Rates
) -> None:
    """Follows the mean squares by row and by column, and counts the step; partial: (programs, columns)."""
    (rows, columns), programs = (len(part) for part in second), len(partial)
    width = min(triton.next_power_of_2(columns), MOST_COLUMNS)
    with torch.cuda.device_of(gradient):
        _row_moments[(programs,)](
            *(gradient, second[0], partial, rows, columns, programs, rates.beta2), ROWS=16, COLUMNS=width
        )
        _column_moments[(triton.cdiv(columns, 32),)](
            *(partial, second[1], count, programs, rows, columns, rates.beta2),
            PROGRAMS=triton.next_power_of_2(programs),
            COLUMNS=32,
        )


def factored_step(
    parameter: Tensor,
    gradient: Tensor,
    moment: tuple[Tensor, Tensor],
    second: tuple[Tensor, Tensor],
    count: Tensor,
    lr: Tensor,
    rates: Rates,
) -> None:
    """As muse_kernels.moment_8bit.factored_step_8bit_, from second moments that are already followed."""
    steps, scale = moment
    columns = len(second[1])
    with torch.cuda.device_of(parameter):
        _factored_step[(triton.cdiv(scale.numel(), BLOCKS),)](
            *(parameter, steps, scale, gradient, *second, count, lr, gradient.numel(), scale.numel(), columns),
            *(rates.momentum, *_logs(rates), rates.scale, rates.decay, rates.salt, rates.epsilon**2),
            RANDOM=parameter.dtype == torch.bfloat16,
            BLOCKS=BLOCKS,
            SIZE=BLOCK,
            COLUMNS=min(triton.next_power_of_2(columns), 1024),
        )


def small_step(
    parameter: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor], count: Tensor, lr: Tensor, rates: Rates
) -> None:
    """As muse_kernels.moment_8bit.small_step_."""
    block = triton.next_power_of_2(parameter.numel())
    with torch.cuda.device_of(parameter):
        _small_step[(1,)](
            *(parameter, gradient, *moments, count, lr, parameter.numel(), rates.momentum, rates.beta2),
            *(*_logs(rates), rates.scale, rates.decay, rates.salt, rates.epsilon**2),
            RANDOM=parameter.dtype == torch.bfloat16,
            BLOCK=block,
            num_warps=min(16, max(1, block // 256)),
        )


def _logs(rates: Rates) -> tuple[float, float]:
    return math.log(rates.momentum), math.log(rates.beta2)
