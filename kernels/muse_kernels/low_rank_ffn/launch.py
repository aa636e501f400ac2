"""Launches of the kernels, and the sizes of their blocks."""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from muse_kernels.low_rank_ffn.kernel import backward_kernel, forward_kernel, wide_weights_kernel
from muse_kernels.products import has_matrix_units, pipeline_stages, shared_bytes


@dataclass(frozen=True)
class Blocks:
    """Sizes of a program's tiles, and how it runs."""

    rank: int  # padded, as matrix instructions take no fewer than 16
    width: int
    wide: int
    warps: int
    stages: int


def launch_forward(
    x: Tensor, parameters: tuple[Tensor, ...], gelu: bool, outputs: tuple[Tensor, ...], block: int
) -> None:
    """Fills y (tokens, width) and the narrow pre-activations (tokens, rank), the first and the last."""
    y, narrow1, narrow_last = outputs
    weight1, bias1, weight2, bias2, weight3, bias3, last, last_bias = _eight(parameters)
    tokens, width = x.shape
    sizes = blocks(weight1.shape[0], block, x)
    with torch.cuda.device_of(x):
        forward_kernel[(triton.cdiv(tokens, block),)](
            *(x, weight1, bias1, weight2, bias2, weight3, bias3, last, last_bias, narrow1, narrow_last, y),
            *(tokens, width, weight1.shape[0], weight2.shape[0], *x.stride()),
            FOUR=len(parameters) == 8,
            GELU=gelu,
            RANK=sizes.rank,
            BLOCK=block,
            BLOCK_WIDTH=sizes.width,
            BLOCK_WIDE=sizes.wide,
            num_warps=sizes.warps,
            num_stages=sizes.stages,
        )


def launch_backward(
    grad: Tensor,
    parameters: tuple[Tensor, ...],
    gelu: bool,
    narrow: tuple[Tensor, Tensor],
    outputs: tuple[Tensor, ...],
    partial: Tensor,
    block: int,
) -> None:
    """Fills grad_x, then hidden and gradient of each narrow layer, and the shares of the biases' gradients."""
    grad_x, hidden1, hidden_last, grad_narrow1, grad_narrow_last = outputs
    weight1, _, weight2, bias2, weight3, _, last, _ = _eight(parameters)
    tokens, width = grad.shape
    sizes = blocks(weight1.shape[0], block, grad)
    with torch.cuda.device_of(grad):
        backward_kernel[(triton.cdiv(tokens, block),)](
            *(grad, weight1, weight2, bias2, weight3, last, *narrow),
            *(hidden1, hidden_last, grad_narrow1, grad_narrow_last, grad_x, partial),
            *(tokens, width, weight1.shape[0], weight2.shape[0], partial.shape[1]),
            FOUR=len(parameters) == 8,
            GELU=gelu,
            RANK=sizes.rank,
            BLOCK=block,
            BLOCK_WIDTH=sizes.width,
            BLOCK_WIDE=sizes.wide,
            num_warps=sizes.warps,
            num_stages=sizes.stages,
        )


def launch_wide_weights(
    hidden: Tensor,
    grad_narrow: Tensor,
    middle: tuple[Tensor, ...],
    gelu: bool,
    partial: Tensor,
    split_tokens: int,
    block: int,
) -> None:
    """Fills shares of the gradients of the layers in the middle: a row of weight2, weight3 and bias2 a split."""
    weight2, bias2, weight3, _ = middle
    (tokens, rank), wide = hidden.shape, weight2.shape[0]
    sizes = blocks(rank, block, hidden)
    with torch.cuda.device_of(hidden):
        wide_weights_kernel[(triton.cdiv(wide, sizes.wide), partial.shape[0])](
            *(hidden, grad_narrow, weight2, bias2, weight3, partial, tokens, rank, wide, split_tokens),
            GELU=gelu,
            RANK=sizes.rank,
            BLOCK=block,
            BLOCK_WIDE=sizes.wide,
            num_warps=sizes.warps,
            num_stages=sizes.stages,
        )


def blocks(rank: int, block: int, x: Tensor) -> Blocks:
    """Tiles that fit registers and shared memory, and a narrow x in long enough pieces."""
    padded = max(16, triton.next_power_of_2(rank))
    if has_matrix_units(x):
        columns, warps = 64, 8 if padded >= 128 else 4
    else:
        columns, warps = 32 if padded <= 64 else 16, 8
    wide = columns
    while wide > 16 and sum(_tile_bytes(padded, block, wide, x)) > shared_bytes(x):
        wide //= 2
    once, kept = _tile_bytes(padded, block, wide, x)
    width = 2 * wide if padded <= 32 else wide
    return Blocks(padded, width, wide, warps, pipeline_stages(once // 2, kept, x))


def _tile_bytes(rank: int, block: int, wide: int, x: Tensor) -> tuple[int, int]:
    """Shared memory of two stages of tiles, and of the operands that stay."""
    return 2 * wide * x.element_size() * max(block + rank, 2 * rank), 2 * rank * x.element_size() * max(block, wide)


def _eight(parameters: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Weights and biases of four layers; where there are two, the middle ones are never read."""
    return parameters if len(parameters) == 8 else parameters[:2] + parameters[:2] * 2 + parameters[2:]
