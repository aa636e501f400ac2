"""The gated norm by Triton kernels: one launch forward, two backward."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from muse_kernels.implementation import launches

MOST_PROGRAMS = 264
ROWS = 8  # tokens of a program, at least


class FusedGatedRMSNorm(torch.autograd.Function):
    """Saves its inputs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, v: Tensor, skip: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, v, skip, gate, weight)
        ctx.eps = eps
        y = x.new_empty(*x.shape[:2], weight.shape[0])
        if launches(y):
            from muse_kernels.gated_rms_norm.kernel import launch_forward

            launch_forward(_rows(x), _rows(v), skip.contiguous(), _rows(gate), weight.contiguous(), eps, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, v, skip, gate, weight = ctx.saved_tensors
        grad_x, grad_v, grad_gate = (like.new_empty(like.shape) for like in (x, v, gate))
        grad_weight, grad_skip = torch.zeros_like(weight), torch.zeros_like(skip)
        tokens, width = x.shape[0] * x.shape[1], weight.shape[0]
        partial = torch.empty(programs(tokens), 2 * width, dtype=torch.float32, device=x.device)
        if launches(grad_x):
            from muse_kernels.gated_rms_norm.kernel import launch_backward
            from muse_kernels.partials import sum_partials

            operands = _rows(x), _rows(v), skip.contiguous(), _rows(gate), weight.contiguous()
            launch_backward(_rows(grad), operands, ctx.eps, (grad_x, grad_v, grad_gate), partial)
            by_column = partial[0, width:]  # free once the sum has read it: its own first row
            sum_partials(partial, grad_weight, by_column)
            grad_skip.copy_(by_column.view(len(skip), -1).sum(1))
        return grad_x, grad_v, grad_skip, grad_gate, grad_weight, None


def programs(tokens: int) -> int:
    """Programs that share the tokens in backward."""
    return max(1, min(MOST_PROGRAMS, -(-tokens // ROWS)))


def _rows(tensor: Tensor) -> Tensor:
    """(tokens, width) with columns side by side; a copy where they are not."""
    wide = tensor.flatten(2) if tensor.dim() == 4 else tensor
    rows = wide.reshape(-1, wide.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()
