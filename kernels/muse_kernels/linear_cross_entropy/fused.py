"""The linear heads' loss on Triton: statistics in one launch, then gradients with or without blocks of logits.

A narrow head's logits are never written. A wide head's backward writes those of a block of the vocabulary, in the part
of the weight's gradient that is still free. In float32, where matrix units do not help, the products are the library's.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from muse_kernels.implementation import launches
from muse_kernels.linear_cross_entropy import blocks, narrow, wide
from muse_kernels.linear_cross_entropy.softmax import Loss


class FusedCrossEntropy(torch.autograd.Function):
    """Saves x, targets, two statistics a token and the number that count; weight and bias by reference."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, loss: Loss) -> Tensor:
        operands, targets = rows_of(x, weight, bias), targets.contiguous()
        picked = x.new_empty(x.shape[0], dtype=torch.float32)
        if blocks.is_narrow(x.shape[1], x.dtype) or x.dtype != torch.float32:
            partial = statistics(operands, targets, picked)
        else:
            partial = wide.library_statistics(operands, targets, picked)
        total, kept, count = join(partial, picked, targets, weight.shape[0], loss)
        ctx.save_for_backward(x, weight, bias, targets, kept, count)
        ctx.loss = loss
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, weight, bias, targets, kept, count = ctx.saved_tensors
        if blocks.is_narrow(x.shape[1], x.dtype):
            gradients = narrow.gradients
        else:
            gradients = wide.library_gradients if x.dtype == torch.float32 else wide.gradients
        operands, saved = rows_of(x, weight, bias), (targets, kept, grad, count)
        return *gradients(operands, saved, ctx.loss, ctx.needs_input_grad[:3]), None, None


def rows_of(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The operands with rows that lie together; a copy only of what has none."""
    return _with_rows(x), _with_rows(weight), None if bias is None else bias.contiguous()


def statistics(operands: tuple[Tensor, Tensor, Tensor | None], targets: Tensor, picked: Tensor) -> Tensor:
    """(2, splits, tokens), each split's largest logits and sums of exponentials; fills the targets' logits."""
    x, weight, _ = operands
    tokens, width = x.shape
    narrow_head = blocks.is_narrow(width, x.dtype)
    tiles = blocks.narrow_tiles(x, width) if narrow_head else blocks.statistics_tiles(x, weight.shape[0])
    row_tiles, column_tiles = -(-tokens // tiles.rows), -(-weight.shape[0] // tiles.columns)
    splits = blocks.even_splits(
        row_tiles, column_tiles, blocks.MOST_SPLITS, resident=4 if narrow_head else 8 // tiles.warps
    )
    partial = x.new_empty(2, splits, tokens, dtype=torch.float32)
    if launches(partial):
        from muse_kernels.linear_cross_entropy.kernel import launch_statistics

        launch_statistics(*operands, targets, partial, picked, tiles)
    return partial


def join(
    partial: Tensor, picked: Tensor, targets: Tensor, vocab_size: int, loss: Loss
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, each token's statistics (2, tokens) and how many tokens count; checks the range of targets."""
    tokens = targets.shape[0]
    kept = partial.new_empty(2, tokens)
    sums = partial.new_empty(3, -(-tokens // blocks.LOSSES_A_PROGRAM))
    total, count = partial.new_empty(()), partial.new_empty(())
    in_range = partial.new_empty((), dtype=torch.bool)
    if launches(total):
        from muse_kernels.linear_cross_entropy.kernel import launch_loss

        launch_loss(partial, picked, targets, vocab_size, loss, kept, sums, (total, count, in_range))
        if total.is_cuda:
            torch._assert_async(in_range, f"targets: id out of range [0, {vocab_size})")
    return total, kept, count


def _with_rows(matrix: Tensor) -> Tensor:
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()
