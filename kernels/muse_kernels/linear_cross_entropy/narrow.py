"""Gradients of a narrow head on Triton, without a block of logits: what they allocate."""

import torch
from torch import Tensor

from muse_kernels.implementation import launches
from muse_kernels.linear_cross_entropy import blocks
from muse_kernels.linear_cross_entropy.softmax import Loss

Operands = tuple[Tensor, Tensor, Tensor | None]
Saved = tuple[Tensor, Tensor, Tensor, Tensor]
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def gradients(operands: Operands, saved: Saved, loss: Loss, needs: tuple[bool, ...]) -> Gradients:
    """Those needed of the gradients of (x, weight, bias); saved is (targets, statistics, grad, count)."""
    grad_x = _input_gradient(operands, saved, loss) if needs[0] else None
    grad_weight, grad_bias = _weight_gradients(operands, saved, loss, needs[1], needs[2])
    return grad_x, grad_weight, grad_bias


def _input_gradient(operands: Operands, saved: Saved, loss: Loss) -> Tensor:
    x, weight, _ = operands
    (tokens, width), vocab_size = x.shape, weight.shape[0]
    tiles = blocks.narrow_tiles(x, width)
    limit = blocks.split_budget(tokens, vocab_size, x.element_size()) // max(tokens * width * 4, 1)
    splits = blocks.even_splits(-(-tokens // tiles.rows), -(-vocab_size // tiles.columns), limit, resident=4)
    grad_x = x.new_empty(tokens, width)
    parts = _parts(grad_x, splits)
    if launches(grad_x):
        from muse_kernels.linear_cross_entropy.narrow_kernel import launch_input_gradient

        launch_input_gradient(operands, saved, parts, loss, tiles)
        _sum(parts, grad_x)
    return grad_x


def _weight_gradients(
    operands: Operands, saved: Saved, loss: Loss, needs_weight: bool, needs_bias: bool
) -> tuple[Tensor | None, Tensor | None]:
    x, weight, bias = operands
    (tokens, width), vocab_size = x.shape, weight.shape[0]
    tiles = blocks.narrow_tiles(x, width, weight_gradient=True)
    limit = blocks.split_budget(tokens, vocab_size, x.element_size()) // (vocab_size * (width + 1) * 4)
    column_tiles, row_tiles = -(-vocab_size // tiles.columns), -(-tokens // tiles.rows)
    splits = blocks.even_splits(column_tiles, row_tiles, limit, resident=4)
    grad_weight = weight.new_empty(weight.shape) if needs_weight else None
    grad_bias = bias.new_empty(bias.shape) if bias is not None and needs_bias else None
    weight_parts = None if grad_weight is None else _parts(grad_weight, splits)
    bias_parts = None if grad_bias is None else _parts(grad_bias, splits)
    if (grad_weight is not None or grad_bias is not None) and launches(weight):
        from muse_kernels.linear_cross_entropy.narrow_kernel import launch_weight_gradient

        launch_weight_gradient(operands, saved, weight_parts, bias_parts, splits, loss, tiles)
        _sum(weight_parts, grad_weight)
        _sum(bias_parts, grad_bias)
    return grad_weight, grad_bias


def _parts(gradient: Tensor, splits: int) -> Tensor:
    """(splits, *shape): the gradient itself where there is one split, else partial sums in float32."""
    if splits == 1:
        return gradient.unsqueeze(0)
    return gradient.new_empty(splits, *gradient.shape, dtype=torch.float32)


def _sum(parts: Tensor | None, gradient: Tensor | None) -> None:
    if parts is not None and gradient is not None and parts.shape[0] > 1:
        from muse_kernels.partials import sum_partials

        sum_partials(parts.flatten(1), gradient)
