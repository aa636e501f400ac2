"""The same by Triton kernels: one launch forward, two backward."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from muse_kernels.implementation import launches

MOST_PROGRAMS, TOKENS = 64, 16


class FusedDiscretise(torch.autograd.Function):
    """Saves its inputs."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, steps: Tensor, bias: Tensor, rate_log: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(v, steps, bias, rate_log)
        ctx.set_materialize_grads(False)
        log_decay, taken = v.new_empty(steps.shape, dtype=torch.float32), v.new_empty(v.shape)
        if launches(taken):
            from muse_kernels.discretise.kernel import launch_forward

            launch_forward(_rows(v), steps.flatten(0, 1), bias.contiguous(), rate_log.contiguous(), log_decay, taken)
        return log_decay, taken

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_log: Tensor | None, grad_taken: Tensor | None) -> tuple[Tensor | None, ...]:
        v, steps, bias, rate_log = ctx.saved_tensors
        concerned = grad_taken is not None, True, True, grad_log is not None
        if grad_log is None:
            grad_log = torch.zeros(steps.shape, dtype=torch.float32, device=v.device)
        if grad_taken is None:
            grad_taken = v.new_zeros(1, 1, 1, 1).expand(v.shape)
        grad_v, grad_steps = v.new_empty(v.shape), v.new_empty(steps.shape)
        grad_bias, grad_rate = torch.zeros_like(bias), torch.zeros_like(rate_log)
        tokens, heads = steps.shape[0] * steps.shape[1], steps.shape[2]
        programs = max(1, min(MOST_PROGRAMS, -(-tokens // TOKENS)))
        partial = torch.empty(programs, 2 * heads, dtype=torch.float32, device=v.device)
        if launches(grad_v):
            from muse_kernels.discretise.kernel import launch_backward
            from muse_kernels.partials import sum_partials

            gradients = grad_log.contiguous(), _rows(grad_taken)
            operands = _rows(v), steps.flatten(0, 1), bias.contiguous(), rate_log.contiguous()
            launch_backward(gradients, operands, grad_v, grad_steps, partial)
            sum_partials(partial, grad_bias, grad_rate)
        found = grad_v, grad_steps, grad_bias, grad_rate
        wanted = zip(found, concerned, ctx.needs_input_grad, strict=True)
        return tuple(gradient if concerns and needs else None for gradient, concerns, needs in wanted)


def _rows(v: Tensor) -> Tensor:
    """(tokens, heads, P) with the last dimension side by side; a copy where it is not."""
    rows = v.flatten(0, 1)
    return rows if rows.stride(2) == 1 else rows.contiguous()
