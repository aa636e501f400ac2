"""The tensor-train head's loss on Triton: logits in registers only, gradients straight into the cores."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from muse_kernels.implementation import launches
from muse_kernels.linear_cross_entropy import blocks
from muse_kernels.linear_cross_entropy.fused import join
from muse_kernels.linear_cross_entropy.narrow import Saved
from muse_kernels.linear_cross_entropy.softmax import Loss
from muse_kernels.linear_cross_entropy.train_plan import TrainPlan, core_splits, train_plan

Operands = tuple[Tensor, Tensor, Tensor]


class FusedTensorTrainCrossEntropy(torch.autograd.Function):
    """Saves x, targets, two statistics a token and the number that count; the cores by reference."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        core1: Tensor,
        core2: Tensor,
        theta: Tensor,
        targets: Tensor,
        vocab_size: int,
        loss: Loss,
    ) -> Tensor:
        plan, targets = train_plan(x, core1, core2, vocab_size), targets.contiguous()
        operands, tokens = _operands(x, core1, core2, theta, plan), x.shape[0]
        picked = x.new_empty(tokens, dtype=torch.float32)
        splits = blocks.even_splits(plan.token_tiles(tokens), plan.groups, blocks.MOST_SPLITS, resident=2)
        partial = x.new_empty(2, splits, tokens, dtype=torch.float32)
        if launches(partial):
            from muse_kernels.linear_cross_entropy.train_launch import launch_statistics

            launch_statistics(operands, targets, partial, picked, plan)
        total, kept, count = join(partial, picked, targets, vocab_size, loss)
        ctx.save_for_backward(x, core1, core2, theta, targets, kept, count)
        ctx.vocab_size, ctx.loss = vocab_size, loss
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, core1, core2, theta, targets, kept, count = ctx.saved_tensors
        plan, needs = train_plan(x, core1, core2, ctx.vocab_size), ctx.needs_input_grad
        saved = (targets, kept, grad, count)
        operands = _operands(x, core1, core2, theta, plan)
        grad_x = _input_gradient(operands, saved, ctx.loss, plan) if needs[0] else None
        cores: tuple[Tensor | None, ...] = (None, None, None)
        if any(needs[1:4]):
            cores = _core_gradients(operands, saved, core2.contiguous(), theta.contiguous(), ctx.loss, plan)
        return grad_x, *cores, None, None, None


def _operands(x: Tensor, core1: Tensor, core2: Tensor, theta: Tensor, plan: TrainPlan) -> Operands:
    """x with rows that lie together, core1 contiguous, core2 rotated and padded."""
    right = core2.new_empty(plan.right_shape)
    if launches(right):
        from muse_kernels.linear_cross_entropy.train_launch import launch_rotate

        launch_rotate(core2.contiguous(), theta.contiguous(), right)
    return x if x.stride(1) == 1 else x.contiguous(), core1.contiguous(), right


def _input_gradient(operands: Operands, saved: Saved, loss: Loss, plan: TrainPlan) -> Tensor:
    x = operands[0]
    tokens, width = x.shape
    limit = blocks.split_budget(tokens, plan.vocab_size, x.element_size()) // max(tokens * width * 4, 1)
    splits = blocks.even_splits(plan.token_tiles(tokens), plan.groups, limit)
    grad_x = x.new_empty(tokens, width)
    parts = grad_x.unsqueeze(0) if splits == 1 else x.new_empty(splits, tokens, width, dtype=torch.float32)
    if launches(grad_x):
        from muse_kernels.linear_cross_entropy.train_launch import launch_input_gradient

        launch_input_gradient(operands, saved, parts, loss, plan)
        if splits > 1:
            from muse_kernels.partials import sum_partials

            sum_partials(parts.flatten(1), grad_x)
    return grad_x


def _core_gradients(
    operands: Operands, saved: Saved, core2: Tensor, theta: Tensor, loss: Loss, plan: TrainPlan
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of core1, core2 and theta, from shares in float32 that programs leave."""
    x, core1, _ = operands
    groups, tokens = splits = core_splits(plan, core1, core2, x.shape[0])
    counts = plan.column_tiles * tokens, groups * tokens, groups * plan.column_tiles * tokens
    shares = (
        x.new_empty(plan.v1, counts[0], plan.rank, plan.d1, dtype=torch.float32),
        x.new_empty(plan.v2, counts[1], plan.rank, plan.d2, dtype=torch.float32),
        x.new_empty(counts[2], plan.rank, dtype=torch.float32),
    )
    gradients = core1.new_empty(core1.shape), core2.new_empty(core2.shape), theta.new_empty(theta.shape)
    if launches(core1):
        from muse_kernels.linear_cross_entropy.train_launch import launch_core_gradients
        from muse_kernels.tensor_train_shares import launch_sum_shares

        launch_core_gradients(operands, saved, core2, shares, splits, loss, plan)
        launch_sum_shares(shares, theta, gradients, counts)
    return gradients
