"""The gated scan by Triton kernels: allocates outputs and scratch, so that a tracer sees them, and launches."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from muse_kernels.diagonal_scan.fused import empty_decay_gradient, reduced_decay_gradient
from muse_kernels.diagonal_scan.plan import Plan, plan
from muse_kernels.implementation import launches


class FusedGatedScan(torch.autograd.Function):
    """Saves its inputs, and the states of the chunks where there are several."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, v: Tensor, scores: Tensor, decay: Tensor | None, initial: Tensor | None, hard: bool
    ) -> tuple[Tensor, Tensor]:
        layout = plan(*u.shape)
        out = u.new_empty(u.shape)
        ending = u.new_empty(u.shape[0], u.shape[2], dtype=torch.float32)
        states = _new_states(u, decay, layout)
        given = None if initial is None else initial.contiguous()
        if launches(out):
            from muse_kernels.gated_scan.kernel import launch_gated_chunk_states, launch_gated_scan

            if states is not None:
                launch_gated_chunk_states(u, scores, decay, states, hard, layout)
            launch_gated_scan(u, v, scores, decay, given, out, ending, states, hard, layout)
        elif out.numel() == 0:
            ending.zero_() if initial is None else ending.copy_(initial)
        ctx.save_for_backward(u, v, scores, decay, initial, states)
        ctx.hard = hard
        ctx.set_materialize_grads(False)
        return out, ending

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, grad_ending: Tensor | None) -> tuple[Tensor | None, ...]:
        u, v, scores, decay, initial, states = ctx.saved_tensors
        layout = plan(*u.shape)
        if grad is None:
            grad = u.new_zeros(1).expand(u.shape)
        given = None if initial is None else initial.contiguous()
        grad_v, grad_scores = (u.new_empty(u.shape) for _ in range(2))
        needs_decay, needs_initial = ctx.needs_input_grad[3:5]
        h_before = u.new_empty(u.shape, dtype=torch.float32) if needs_decay else None
        late_states = _new_states(u, decay, layout)
        if launches(u):
            from muse_kernels.gated_scan.kernel_backward import launch_product_backward, launch_scan_backward

            launch_product_backward(
                grad, u, v, scores, decay, given, states, grad_v, grad_scores, h_before, late_states, ctx.hard, layout
            )
        grad_u = u.new_empty(u.shape)
        grad_decay = empty_decay_gradient(decay, layout, u) if needs_decay else None
        grad_initial = initial.new_empty(initial.shape) if needs_initial else None
        grad_ending = None if grad_ending is None else grad_ending.contiguous()
        if launches(u):
            launch_scan_backward(
                grad, u, v, scores, decay, grad_ending, h_before, late_states,
                grad_u, grad_scores, grad_decay, grad_initial, ctx.hard, layout,
            )  # fmt: skip
        elif grad_initial is not None and u.numel() == 0:
            grad_initial.zero_() if grad_ending is None else grad_initial.copy_(grad_ending)
        return grad_u, grad_v, grad_scores, reduced_decay_gradient(decay, grad_decay), grad_initial, None


def _new_states(u: Tensor, decay: Tensor | None, layout: Plan) -> Tensor | None:
    """For the final states of the chunks, if there are several."""
    if not layout.split:
        return None
    return u.new_empty(layout.state_shape(u.shape[0], u.shape[2], decay), dtype=torch.float32)
