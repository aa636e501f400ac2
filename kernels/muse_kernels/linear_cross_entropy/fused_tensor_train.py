"""The tensor-train head's loss on Triton: logits in registers only, gradients straight into the cores.

That is quickest at low ranks; at higher ones, in 16 bits, the table is expanded by blocks that serve as dense heads.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from muse_kernels import tensor_train_blocks
from muse_kernels.chunks import slices
from muse_kernels.implementation import launches
from muse_kernels.linear_cross_entropy import blocks
from muse_kernels.linear_cross_entropy.blocks import Block
from muse_kernels.linear_cross_entropy.fused import join
from muse_kernels.linear_cross_entropy.narrow import Saved
from muse_kernels.linear_cross_entropy.softmax import Loss
from muse_kernels.linear_cross_entropy.train_plan import TrainPlan, core_splits, train_plan
from muse_kernels.tensor_train_blocks import Cores, Fill, Plan

Operands = tuple[Tensor, Tensor, Tensor]

FREE_RANKS = 4  # with logits in registers, forward and backward take what a dense head does: 1.04 times at rank 3


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
        targets, cores = targets.contiguous(), (core1.contiguous(), core2.contiguous(), theta.contiguous())
        picked = x.new_empty(x.shape[0], dtype=torch.float32)
        if _block_plan(x, cores, vocab_size) is None:
            partial = _statistics(x, cores, targets, vocab_size, picked)
        else:
            partial = _block_statistics(_with_rows(x), cores, targets, vocab_size, picked)
        total, kept, count = join(partial, picked, targets, vocab_size, loss)
        ctx.save_for_backward(x, core1, core2, theta, targets, kept, count)
        ctx.vocab_size, ctx.loss = vocab_size, loss
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, core1, core2, theta, targets, kept, count = ctx.saved_tensors
        vocab_size, needs = ctx.vocab_size, ctx.needs_input_grad
        cores = core1.contiguous(), core2.contiguous(), theta.contiguous()
        saved, block_plan = (targets, kept, grad, count), _block_plan(x, cores, vocab_size)
        if block_plan is not None:
            x = _with_rows(x)
            fills = _fills(x, saved, vocab_size, ctx.loss, block_plan)
            return *tensor_train_blocks.gradients(x, cores, vocab_size, block_plan, fills, needs[:4]), None, None, None
        plan = train_plan(x, core1, core2, vocab_size)
        operands = _operands(x, cores, plan)
        grad_x = _input_gradient(operands, saved, ctx.loss, plan) if needs[0] else None
        grad_cores: tuple[Tensor | None, ...] = (None, None, None)
        if any(needs[1:4]):
            grad_cores = _core_gradients(operands, saved, cores, ctx.loss, plan)
        return grad_x, *grad_cores, None, None, None


def _block_plan(x: Tensor, cores: Cores, vocab_size: int) -> Plan | None:
    """How the gradients are cut where the table is expanded, in forward and in backward; None where it is not."""
    return tensor_train_blocks.plan_gradients(x, cores, vocab_size, _budget(x, vocab_size), FREE_RANKS)


def _budget(x: Tensor, vocab_size: int) -> int:
    return blocks.logits_budget(x.shape[0], vocab_size, x.shape[1], x.element_size(), 0)


def _statistics(x: Tensor, cores: Cores, targets: Tensor, vocab_size: int, picked: Tensor) -> Tensor:
    """(2, splits, tokens), as fused.statistics; fills the targets' logits."""
    plan, tokens = train_plan(x, cores[0], cores[1], vocab_size), x.shape[0]
    operands = _operands(x, cores, plan)
    splits = blocks.even_splits(plan.token_tiles(tokens), plan.groups, blocks.MOST_SPLITS, resident=2)
    partial = x.new_empty(2, splits, tokens, dtype=torch.float32)
    if launches(partial):
        from muse_kernels.linear_cross_entropy.train_launch import launch_statistics

        launch_statistics(operands, targets, partial, picked, plan)
    return partial


def _block_statistics(x: Tensor, cores: Cores, targets: Tensor, vocab_size: int, picked: Tensor) -> Tensor:
    """(2, splits, tokens), as fused.statistics, each split's taken from block to block of the table."""
    (tokens, width), tiles = x.shape, blocks.statistics_tiles(x, vocab_size)
    columns = tensor_train_blocks.block_columns(vocab_size, width, x.element_size(), _budget(x, vocab_size))
    row_tiles, column_tiles = -(-tokens // tiles.rows), -(-columns // tiles.columns)
    splits = blocks.even_splits(row_tiles, column_tiles, blocks.MOST_SPLITS, resident=8 // tiles.warps)
    partial, table = x.new_empty(2, splits, tokens, dtype=torch.float32), x.new_empty(columns, width)
    for ids in slices(vocab_size, columns):
        rows = tensor_train_blocks.expand(cores, ids, table)
        if launches(partial):
            from muse_kernels.linear_cross_entropy.kernel import launch_statistics

            launch_statistics(x, rows, None, targets, partial, picked, tiles, ids.start)
    return partial


def _fills(x: Tensor, saved: Saved, vocab_size: int, loss: Loss, plan: Plan) -> Callable[[slice], Fill]:
    """For a chunk of tokens, what fills the gradient of the logits of a block."""
    targets, kept, grad, count = saved
    tiles, places = blocks.product_tiles(x, vocab_size), targets.new_empty(plan.tokens)

    def of_chunk(chunk: slice) -> Fill:
        statistics, own = kept[:, chunk].contiguous(), places[: chunk.stop - chunk.start]

        def fill(grad_logits: Tensor, ids: slice, rows: Tensor) -> None:
            torch.sub(targets[chunk], ids.start, out=own)  # targets among the block's rows, and what is ignored too
            if launches(grad_logits):
                from muse_kernels.linear_cross_entropy.wide_kernel import launch_logits_gradient

                block = Block(0, ids.stop - ids.start, in_gradient=False)
                shifted = replace(loss, ignore_index=loss.ignore_index - ids.start)
                of_block, operands = (own, statistics, grad, count), (x[chunk], rows, None)
                launch_logits_gradient(operands, of_block, block, grad_logits, None, shifted, tiles)

        return fill

    return of_chunk


def _operands(x: Tensor, cores: Cores, plan: TrainPlan) -> Operands:
    """x with rows that lie together, core1, and core2 rotated and padded."""
    core1, core2, theta = cores
    right = core2.new_empty(plan.right_shape)
    if launches(right):
        from muse_kernels.linear_cross_entropy.train_launch import launch_rotate

        launch_rotate(core2, theta, right)
    return _with_rows(x), core1, right


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
    operands: Operands, saved: Saved, cores: Cores, loss: Loss, plan: TrainPlan
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of core1, core2 and theta, from shares in float32 that programs leave."""
    x, (core1, core2, theta) = operands[0], cores
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


def _with_rows(matrix: Tensor) -> Tensor:
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()
