"""The causal convolution by Triton kernels: allocates outputs and scratch, so that a tracer sees them, and launches."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from muse_kernels.diagonal_scan.fused import summed
from muse_kernels.implementation import launches

# Steps of a tile, and the fewest that a program of the backward sums up.
TILE_STEPS = 16
WALK_STEPS = 64
# Programs along the sequence in backward, each with a sum of its own of the weight's gradient.
MAX_SUMS = 64


class FusedCausalConvolution(torch.autograd.Function):
    """Saves x, weight and before."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, before: Tensor | None, add: Tensor | None) -> Tensor:
        y = x.new_empty(x.shape)
        if launches(y):
            from muse_kernels.causal_convolution.kernel import launch_convolution

            ahead = None if before is None else before.contiguous()
            launch_convolution(x, weight.contiguous(), ahead, add, y, TILE_STEPS)
        ctx.save_for_backward(x, weight, before)
        ctx.add_dtype = None if add is None else add.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, before = ctx.saved_tensors
        grad_x = x.new_empty(x.shape)
        walks, steps = walks_of(x.shape[0], x.shape[1])
        sums, grad_before = None, None
        if ctx.needs_input_grad[1]:
            sums = x.new_empty(x.shape[0] * walks, *weight.shape, dtype=torch.float32)
        if ctx.needs_input_grad[2]:
            grad_before = before.new_empty(before.shape) if x.numel() > 0 else before.new_zeros(before.shape)
        if launches(x):
            from muse_kernels.causal_convolution.kernel import launch_convolution_backward

            taps, ahead = weight.contiguous(), None if before is None else before.contiguous()
            launch_convolution_backward(grad, x, taps, ahead, grad_x, sums, grad_before, walks, steps, TILE_STEPS)
        grad_weight = None if sums is None else summed(sums, weight)
        return grad_x, grad_weight, grad_before, None if ctx.add_dtype is None else grad.to(ctx.add_dtype)


def walks_of(batch: int, seq: int) -> tuple[int, int]:
    """How many programs share a sequence in backward, and the steps of each."""
    walks = min(-(-seq // WALK_STEPS), max(1, MAX_SUMS // max(batch, 1)))
    steps = -(-seq // (max(walks, 1) * TILE_STEPS)) * TILE_STEPS
    return (-(-seq // steps), steps) if seq else (0, 0)
