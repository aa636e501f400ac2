"""Triton kernel of the step: a program has whole rows, and reads them twice, for their largest and to move them."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from muse_kernels.int8_step.rates import LARGEST_STEP, LEAST_SCALE, RANDOM_BITS, Int8Rates

VALUES = 4096  # of a tile
MOST_COLUMNS = 1024
PEAK = tl.constexpr(float(LARGEST_STEP))
LEAST = tl.constexpr(LEAST_SCALE)
DRAWN = tl.constexpr((1 << RANDOM_BITS) - 1)
DRAWS = tl.constexpr(float(1 << RANDOM_BITS))
SEED_STRIDE = tl.constexpr(1_000_003)  # between counts, so that salted seeds do not meet


@triton.jit
def _moved(weight, update, size, row, column, inside, columns, update_row, update_column, kept, taken):
    """A tile of the new values, in steps of the old scale."""
    place = row.to(tl.int64)[:, None] * columns + column[None, :]
    source = row.to(tl.int64)[:, None] * update_row + column.to(tl.int64)[None, :] * update_column
    steps = tl.load(weight + place, mask=inside, other=0).to(tl.float32)
    value = tl.load(update + source, mask=inside, other=0.0).to(tl.float32)
    return steps * kept - value * (taken / size)[:, None]


@triton.jit
def _step(
    weight,
    scale,
    update,
    count,
    lr,
    rows,
    columns,
    update_row,
    update_column,
    rate_scale,
    decay,
    salt,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    has_row = row < rows
    size = tl.load(scale + row, mask=has_row, other=1.0)
    rate = tl.load(lr).to(tl.float32)
    kept, taken = 1 - rate * decay, rate * rate_scale
    largest, spoilt = tl.zeros((ROWS, COLUMNS), tl.float32), tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, columns, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        inside = has_row[:, None] & (column < columns)[None, :]
        moved = _moved(weight, update, size, row, column, inside, columns, update_row, update_column, kept, taken)
        largest = tl.maximum(largest, tl.abs(moved))
        spoilt += moved * 0  # a maximum may pass over what is not a number
    peak = tl.max(largest, 1) + tl.sum(spoilt, 1)
    ratio = tl.where(peak == 0, 1.0, tl.math.div_rn(peak, tl.full((ROWS,), PEAK, tl.float32)))  # 1 for a peak of 127
    ratio = tl.where(ratio * size < LEAST, LEAST / size, ratio)
    inverse = tl.math.div_rn(tl.full((ROWS,), 1.0, tl.float32), ratio)
    seed = tl.load(count) * SEED_STRIDE + salt
    for first in range(0, columns, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        inside = has_row[:, None] & (column < columns)[None, :]
        moved = _moved(weight, update, size, row, column, inside, columns, update_row, update_column, kept, taken)
        place = row.to(tl.int64)[:, None] * columns + column[None, :]
        noise = tl.randint(seed, place.to(tl.int32)) & DRAWN
        up = (noise.to(tl.float32) + 0.5) / DRAWS
        steps = tl.minimum(tl.maximum(tl.floor(moved * inverse[:, None] + up), -PEAK), PEAK)
        tl.store(weight + place, steps.to(tl.int8), mask=inside)
    tl.store(scale + row, size * ratio, mask=has_row)


def step(weight_int8: Tensor, scale: Tensor, update: Tensor, count: Tensor, lr: Tensor, rates: Int8Rates) -> None:
    """As muse_kernels.int8_step.int8_step_."""
    rows, columns = weight_int8.shape
    width = min(triton.next_power_of_2(columns), MOST_COLUMNS)
    height = min(triton.next_power_of_2(rows), VALUES // width)
    with torch.cuda.device_of(weight_int8):
        _step[(triton.cdiv(rows, height),)](
            *(weight_int8, scale, update, count, lr, rows, columns, *update.stride()),
            *(rates.scale, rates.decay, rates.salt),
            ROWS=height,
            COLUMNS=width,
        )
