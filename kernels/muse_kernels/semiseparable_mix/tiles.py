"""What the kernels of the mix share: tiles in and out of memory, decays within a chunk, products, tile sizes."""

import math
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from muse_kernels.products import INTERPRETED, rounded
from muse_kernels.semiseparable_mix.plan import Plan, operand_dtype

LOWEST = tl.constexpr(-104.0)  # its exp is 0 in float32, and sums of it are finite
LOG2_E = tl.constexpr(math.log2(math.e))
LN_2 = tl.constexpr(math.log(2))


@triton.jit
def load_rows(pointer, start, stride, seq, first, C: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr):
    """Steps start.. and columns first.. of one head: (C, BLOCK), zeros outside."""
    row, column = tl.arange(0, C), first + tl.arange(0, BLOCK)
    mask = (start + row < seq)[:, None] & (column < D)[None, :]
    return tl.load(pointer + start * stride + row[:, None] * stride + column[None, :], mask=mask, other=0.0)


@triton.jit
def store_rows(pointer, start, stride, seq, first, tile, C: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr):
    row, column = tl.arange(0, C), first + tl.arange(0, BLOCK)
    mask = (start + row < seq)[:, None] & (column < D)[None, :]
    pointers = pointer + start * stride + row[:, None] * stride + column[None, :]
    tl.store(pointers, rounded(tile, pointer.dtype.element_ty), mask=mask)


@triton.jit
def load_state(pointer, slot, first, N: tl.constexpr, N_PAD: tl.constexpr, P: tl.constexpr, BLOCK_P: tl.constexpr):
    """Columns first.. of the slot-th (N, P) matrix, transposed: (BLOCK_P, N_PAD)."""
    n, p = tl.arange(0, N_PAD)[None, :], first + tl.arange(0, BLOCK_P)[:, None]
    return tl.load(pointer + slot * (N * P) + n * P + p, mask=(n < N) & (p < P), other=0.0)


@triton.jit
def store_state(
    pointer, slot, first, state, N: tl.constexpr, N_PAD: tl.constexpr, P: tl.constexpr, BLOCK_P: tl.constexpr
):
    n, p = tl.arange(0, N_PAD)[None, :], first + tl.arange(0, BLOCK_P)[:, None]
    tl.store(pointer + slot * (N * P) + n * P + p, rounded(state, pointer.dtype.element_ty), mask=(n < N) & (p < P))


@triton.jit
def load_log_decays(pointer, start, stride, seq, C: tl.constexpr):
    """Binary log-decays summed from the chunk's start to each step, and over the chunk.

    In float64: a float32 sum of strong decays would leave no digits for the weak ones between two steps.
    """
    row = tl.arange(0, C)
    step = tl.load(pointer + (start + row) * stride, mask=start + row < seq, other=0.0).to(tl.float32)
    step = tl.maximum(step, LOWEST, propagate_nan=tl.PropagateNan.ALL).to(tl.float64) * LOG2_E
    return tl.cumsum(step, 0), tl.sum(step, 0)


@triton.jit
def decay_of(x):
    """2^x of a float64, in float32: what rounding takes from x is made good."""
    high = x.to(tl.float32)
    return tl.exp2(high) * ((x - high.to(tl.float64)).to(tl.float32) * LN_2 + 1)


@triton.jit
def pair_decays(since, C: tl.constexpr, TRANSPOSED: tl.constexpr):
    """(later, earlier) -> what decays between two steps, 0 where the second is the later; or transposed.

    A pair (decay, correction), to be multiplied: the sums are split into two float32 numbers, since the first of two
    sums may cancel. They stay apart because a product of both would be computed outside the layout of the scores.
    """
    high = since.to(tl.float32)
    low = (since - high.to(tl.float64)).to(tl.float32) * LN_2
    row = tl.arange(0, C)
    if TRANSPOSED:
        difference = tl.where(row[None, :] >= row[:, None], high[None, :] - high[:, None], float("-inf"))
        correction = (low[None, :] - low[:, None]) + 1
    else:
        difference = tl.where(row[:, None] >= row[None, :], high[:, None] - high[None, :], float("-inf"))
        correction = (low[:, None] - low[None, :]) + 1
    return tl.exp2(difference), correction


@triton.jit
def product(left, right, total, OPERAND: tl.constexpr, PRECISION: tl.constexpr):
    """total + left @ right, summed in float32; both are rounded to OPERAND first."""
    left, right = rounded(left, OPERAND), rounded(right, OPERAND)
    if INTERPRETED:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, total, input_precision=PRECISION)


@triton.jit
def next_state(state, columns, rows, weights, total, OPERAND: tl.constexpr, PRECISION: tl.constexpr):
    """The transposed state past a chunk: rows^T @ (weights columns), and what is left of it."""
    return product(tl.trans(rows), columns * weights[:, None], state * decay_of(total), OPERAND, PRECISION)


@triton.jit
def place(heads, parts):
    """Batch, part and head of this program. Heads run fastest: they share cache lines."""
    program = tl.program_id(0)
    return (program // heads // parts).to(tl.int64), program // heads % parts, program % heads


@triton.jit
def state_before(
    initial,
    states,
    decays,
    row,
    segment,
    segments,
    first,
    N: tl.constexpr,
    N_PAD: tl.constexpr,
    P: tl.constexpr,
    BLOCK_P: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
):
    """The transposed state at the start of a segment, from what the segments before it add."""
    state = tl.zeros((BLOCK_P, N_PAD), tl.float32)
    if HAS_INITIAL:
        state = load_state(initial, row, first, N, N_PAD, P, BLOCK_P)
    for earlier in range(segment):
        slot = row * segments + earlier
        state *= tl.load(decays + slot)
        state += load_state(states, slot, first, N, N_PAD, P, BLOCK_P)
    return state


def tile_options(q: Tensor, v: Tensor, cut: Plan) -> dict[str, Any]:
    """Tile sizes, the arithmetic of products, warps and stages."""
    n, p, scalar = q.shape[-1], v.shape[-1], v.dtype == torch.float32 or not _has_matrix_instructions(v.device)
    n_pad, p_pad = (max(16, triton.next_power_of_2(size)) for size in (n, p))
    # A state of 4096 numbers is 32 registers a thread; larger ones are shared out to several programs. Without matrix
    # instructions the operands of products are in registers too, where wide tiles would spill.
    block = 32 if scalar and max(n_pad, cut.chunk) > 32 else p_pad if n_pad * p_pad <= 4096 else 64
    return {
        "C": cut.chunk,
        "N": n,
        "N_PAD": n_pad,
        "P": p,
        "BLOCK_P": min(p_pad, block),
        "OPERAND": tl.bfloat16 if operand_dtype(v.dtype) == torch.bfloat16 else tl.float32,
        # float16 values are exact in TF32, which rounds the others as float16 would, and has float32's range.
        "PRECISION": "tf32" if v.dtype == torch.float16 else "ieee",
        # Four warps take 16 of a chunk's 64 rows each; twice as many would do the same rows twice.
        "num_warps": 8 if scalar else 4,
        "num_stages": 2 if v.dtype == torch.bfloat16 and not scalar else 1,
    }


@cache
def _has_matrix_instructions(device: torch.device) -> bool:
    """Those for bfloat16 and TF32 came with compute capability 8.0."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)
