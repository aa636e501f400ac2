"""Products and roundings of tiles, the same in Triton's compiler and in its interpreter.

The interpreter holds bfloat16 as its bits: it would multiply those, and it cuts float32 off to them in place of
rounding. There, halves are multiplied in float32, in which their products are exact, as they are on a GPU.
"""

import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")

SMALLEST_SHARED_BYTES = 64 * 1024  # of compute capability 7.5; also what the interpreter pretends to


def has_matrix_units(operand: Tensor) -> bool:
    """Whether products of this dtype run on matrix units; if not, operands lie in registers: smaller tiles."""
    if operand.dtype == torch.float32:
        return False
    return not operand.is_cuda or torch.cuda.get_device_properties(operand.device).major >= 8


def shared_bytes(operand: Tensor) -> int:
    """Shared memory that one program may take on the operand's GPU."""
    if not operand.is_cuda:
        return SMALLEST_SHARED_BYTES
    properties: Any = torch.cuda.get_device_properties(operand.device)  # the stubs lack this field
    return int(properties.shared_memory_per_block_optin)


def pipeline_stages(stage_bytes: int, other_bytes: int, operand: Tensor) -> int:
    """Stages of tiles that a product's loop may load ahead: up to four."""
    return max(1, min(4, (shared_bytes(operand) - other_bytes) // stage_bytes))


@triton.jit
def dot(left, right, total):
    """total + left @ right, summed in float32; float32 factors are not rounded to TF32."""
    if INTERPRETED:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, total, input_precision="ieee")


@triton.jit
def rounded(value, dtype: tl.constexpr):
    """The value in this dtype, rounded to the nearest, ties to even."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = value.to(tl.float32).to(tl.int32, bitcast=True)
        value = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)
    return value.to(dtype)


@triton.jit
def from_int8(tile, dtype: tl.constexpr):
    """The integers in a floating dtype: all of them are exact in it."""
    if INTERPRETED:
        tile = tile.to(tl.float32)
    return tile.to(dtype)
