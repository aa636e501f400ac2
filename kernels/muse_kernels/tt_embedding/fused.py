"""Rows of a tensor-train table by Triton kernels: one launch forward, four backward."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from muse_kernels.implementation import launches
from muse_kernels.tt_embedding.plan import Plan


class FusedTTEmbedding(torch.autograd.Function):
    """Saves ids; the cores and theta are parameters and saved by reference."""

    @staticmethod
    def forward(
        ctx: Any, ids: Tensor, core1: Tensor, core2: Tensor, theta: Tensor, vocab_size: int, d_model: int
    ) -> Tensor:
        ctx.save_for_backward(ids, core1, core2, theta)
        flat, cores = ids.reshape(-1), (core1.contiguous(), core2.contiguous(), theta.contiguous())
        rows = core1.new_empty(*ids.shape, d_model)
        if launches(rows):
            from muse_kernels.tt_embedding.kernel import launch_rows

            launch_rows(flat, *cores, vocab_size, rows.view(-1, d_model))
        return rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ids, core1, core2, theta = ctx.saved_tensors
        tokens = ids.numel()
        if tokens == 0:
            return None, torch.zeros_like(core1), torch.zeros_like(core2), torch.zeros_like(theta), None, None
        flat, grad_rows = ids.reshape(-1), grad.reshape(tokens, -1)
        cores = (core1.contiguous(), core2.contiguous(), theta.contiguous())
        gradients = (torch.empty_like(cores[0]), torch.empty_like(cores[1]), torch.empty_like(cores[2]))
        plan = Plan.of(tokens, core1, core2)
        integers = torch.empty(sum(plan.integer_sizes()), dtype=torch.int32, device=ids.device)
        shapes = plan.share_shapes(core1, core2)
        first, second, third = (torch.empty(shape, dtype=torch.float32, device=ids.device) for shape in shapes)
        if launches(gradients[0]):
            from muse_kernels.tt_embedding.kernel import launch_gradients

            order, counts, starts = integers.split(plan.integer_sizes())
            sort, shares = (order, counts, starts), (first, second, third)
            launch_gradients(flat, grad_rows, cores, plan, sort, shares, gradients)
        return None, *gradients, None, None
