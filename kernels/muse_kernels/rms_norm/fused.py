"""RMSNorm by Triton kernels: one launch forward, one or two backward."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from muse_kernels.implementation import launches
from muse_kernels.rms_norm.tiles import programs
from muse_kernels.rows import as_rows


class FusedRMSNorm(torch.autograd.Function):
    """Saves the input and one rstd a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        y, _, rstd = _forward(x, None, weight, eps)
        ctx.save_for_backward(x, weight, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        return *_backward(grad, None, ctx.saved_tensors, ctx.needs_input_grad[1]), None


class FusedResidualRMSNorm(torch.autograd.Function):
    """Returns the norm of x + residual and the sum itself; saves the sum and one rstd a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        y, total, rstd = _forward(x, residual, weight, eps)
        ctx.save_for_backward(total, weight, rstd)
        ctx.set_materialize_grads(False)
        return y, total

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Tensor | None, grad_total: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        if grad is None:
            return grad_total, grad_total, None, None
        grad_x, grad_weight = _backward(grad, grad_total, ctx.saved_tensors, ctx.needs_input_grad[2])
        return grad_x, grad_x, grad_weight, None


def _forward(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The norm, the sum (x itself without a residual), and the reciprocal root mean square (rows,)."""
    rows = as_rows(x)
    y = x.new_empty(x.shape)
    total = x if residual is None else x.new_empty(x.shape)
    rstd = torch.empty(rows.shape[0], dtype=torch.float32, device=x.device)
    if launches(y):
        from muse_kernels.rms_norm.kernel import launch_forward

        added = None if residual is None else as_rows(residual)
        launch_forward(rows, added, weight, eps, (y, total, rstd))
    return y, total, rstd


def _backward(
    grad: Tensor, grad_total: Tensor | None, saved: tuple[Tensor, Tensor, Tensor], needs_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of the input, grad_total included, and of the weight."""
    x, weight, rstd = saved
    rows = as_rows(x)
    added = None if grad_total is None else as_rows(grad_total)
    grad_x = x.new_empty(x.shape)
    partial = torch.empty(programs(*rows.shape), weight.shape[0], dtype=torch.float32, device=x.device)
    grad_weight = torch.zeros_like(weight) if rows.shape[0] == 0 else weight.new_empty(weight.shape)
    if launches(grad_x):
        from muse_kernels.rms_norm.kernel import launch_backward, launch_sum

        launch_backward(as_rows(grad), added, (rows, weight, rstd), grad_x, partial)
        if needs_weight:
            launch_sum(partial, grad_weight)
    return grad_x, grad_weight if needs_weight else None
