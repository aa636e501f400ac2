"""The scan by Triton kernels: allocates outputs and scratch, so that a tracer sees them, and launches."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from muse_kernels.diagonal_scan.plan import BACKWARD_TILES, FORWARD_TILES, Plan, plan, streamed_tile
from muse_kernels.implementation import launches


class FusedScan(torch.autograd.Function):
    """Saves the decay, and the output h where the decay has a gradient; a running sum saves nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, decay: Tensor | None) -> Tensor:
        h = x.new_empty(x.shape)
        layout = plan(*x.shape, streamed=streamed_tile(FORWARD_TILES, x, decay))
        states = chunk_states(x, decay, layout, reversed_time=False)
        if launches(h):
            from muse_kernels.diagonal_scan.kernel import launch_scan

            launch_scan(x, decay, h, states, layout)
        ctx.save_for_backward(decay, h if ctx.needs_input_grad[1] else None)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        decay, h = ctx.saved_tensors
        layout = plan(*grad.shape, streamed=streamed_tile(BACKWARD_TILES, grad, decay))
        grad_x = grad.new_empty(grad.shape)
        states = chunk_states(grad, decay, layout, reversed_time=True)
        grad_decay = None if h is None else empty_decay_gradient(decay, layout, grad)
        if launches(grad_x):
            from muse_kernels.diagonal_scan.kernel import launch_scan_backward

            launch_scan_backward(grad, decay, h, grad_x, grad_decay, states, layout)
        return grad_x, reduced_decay_gradient(decay, grad_decay)


def chunk_states(x: Tensor, decay: Tensor | None, layout: Plan, *, reversed_time: bool) -> Tensor | None:
    """Final states of the chunks, if there are several."""
    if not layout.split:
        return None
    states = x.new_empty(layout.state_shape(x.shape[0], x.shape[2], decay), dtype=torch.float32)
    if launches(states):
        from muse_kernels.diagonal_scan.kernel import launch_chunk_states

        launch_chunk_states(x, decay, states, layout, reversed_time=reversed_time)
    return states


def empty_decay_gradient(decay: Tensor, layout: Plan, x: Tensor) -> Tensor:
    """(batch, seq, rank), or the sums over each program's steps where the decay is one a channel."""
    if decay.dim() == 3:
        return decay.new_empty(x.shape)
    return decay.new_empty(x.shape[0] * layout.chunks, x.shape[2], dtype=torch.float32)


def reduced_decay_gradient(decay: Tensor | None, grad_decay: Tensor | None) -> Tensor | None:
    """The gradient in the decay's shape and dtype."""
    if decay is None or grad_decay is None or decay.dim() == 3:
        return grad_decay
    return summed(grad_decay, decay)


def summed(partial: Tensor, like: Tensor) -> Tensor:
    """The sum over the first dimension of partial (programs, ...), contiguous, in the shape and dtype of `like`."""
    total = like.new_empty(like.shape)
    if partial.numel() == 0:
        return total.zero_()
    if launches(total):
        from muse_kernels.partials import sum_partials

        sum_partials(partial.flatten(1), total)
    return total
