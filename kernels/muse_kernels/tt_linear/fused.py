"""Logits against a tensor-train table by Triton kernels: one launch forward, four backward."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from muse_kernels.implementation import launches
from muse_kernels.tt_linear.plan import Blocks, Cut


class FusedTTLinear(torch.autograd.Function):
    """Saves x; the cores and theta are parameters and saved by reference."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, core1: Tensor, core2: Tensor, theta: Tensor, vocab_size: int) -> Tensor:
        ctx.save_for_backward(x, core1, core2, theta)
        rows, cores = x.reshape(-1, x.shape[-1]), (core1.contiguous(), core2.contiguous(), theta.contiguous())
        logits = x.new_empty(*x.shape[:-1], vocab_size)
        if launches(logits):
            from muse_kernels.tt_linear.kernel import launch_logits

            blocks = Blocks.of(rows.shape[0], core1, core2, gradients=False)
            launch_logits(rows, *cores, logits.view(-1, vocab_size), blocks)
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, core1, core2, theta = ctx.saved_tensors
        if x.numel() == 0:
            return torch.zeros_like(x), *(torch.zeros_like(tensor) for tensor in (core1, core2, theta)), None
        rows, grad_logits = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
        cores = (core1.contiguous(), core2.contiguous(), theta.contiguous())
        grad_x = x.new_empty(x.shape)
        gradients = (torch.empty_like(cores[0]), torch.empty_like(cores[1]), torch.empty_like(cores[2]))
        blocks = Blocks.of(rows.shape[0], core1, core2, gradients=True)
        cut = Cut.of(rows.shape[0], core1, core2, blocks)
        shapes = cut.share_shapes(core1, core2)
        first, second, third = (torch.empty(shape, dtype=torch.float32, device=x.device) for shape in shapes)
        if launches(grad_x):
            from muse_kernels.tt_linear.gradient_kernel import launch_gradients

            shares, rows_of_x = (first, second, third), grad_x.view(rows.shape)
            launch_gradients(rows, grad_logits, cores, rows_of_x, shares, gradients, blocks, cut)
        return grad_x, *gradients, None
