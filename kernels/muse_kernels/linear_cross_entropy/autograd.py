"""Cross-entropy of a dense head, by blocks of the vocabulary.

A block sees every token, so each row of the weight's gradient is one whole product, written and rounded once;
only the input's gradient, which is small, is summed over blocks, in float32. Forward and backward walk the
same blocks, so that the same products give them the same logits to the bit: a probability of 1 stays 1.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from muse_kernels.chunks import chunk_length, slices
from muse_kernels.linear_cross_entropy.softmax import Loss, logits_gradient_, reduce_, start_statistics
from muse_kernels.precision import add_product_

TILE = 64  # columns, a multiple of which makes a block: a matrix-product tile, so that none runs mostly empty


class LinearCrossEntropy(torch.autograd.Function):
    """Saves x, targets and two statistics a token; weight and bias are parameters, saved by reference."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        loss: Loss,
    ) -> Tensor:
        statistics, picked = start_statistics(x)
        for part in _blocks(x, weight):
            scores = _logits(x, weight, bias, part).to(statistics.dtype)
            reduce_(scores, part.start, targets, statistics, picked)
            del scores  # before the next block
        ctx.save_for_backward(x, weight, bias, targets, statistics)
        ctx.loss = loss
        return loss.total(targets, statistics, picked)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, weight, bias, targets, statistics = ctx.saved_tensors
        wide = statistics.dtype
        token_grads = ctx.loss.token_gradients(grad, targets, statistics)
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_x = torch.zeros(x.shape, dtype=wide, device=x.device) if needs_x else None
        grad_weight = weight.new_empty(weight.shape) if needs_weight else None
        grad_bias = bias.new_empty(bias.shape) if needs_bias else None
        for part in _blocks(x, weight):
            logits = _logits(x, weight, bias, part)
            scores = logits.to(wide)
            logits_gradient_(scores, part.start, targets, statistics[0], token_grads)
            if grad_bias is not None:
                grad_bias[part] = scores.sum(0)
            grad_logits = logits.copy_(scores)
            del scores  # before the products, which may need its place
            if grad_weight is not None:
                torch.mm(grad_logits.transpose(0, 1), x, out=grad_weight[part])
            if grad_x is not None:
                add_product_(grad_x, grad_logits, weight[part])
            del logits, grad_logits
        return None if grad_x is None else grad_x.to(x.dtype), grad_weight, grad_bias, None, None


def _blocks(x: Tensor, weight: Tensor) -> Iterator[slice]:
    """Slices of the vocabulary for which the logits of all tokens take about the bytes of x."""
    column_bytes, x_bytes = x.shape[0] * x.element_size(), x.shape[0] * x.shape[1] * x.element_size()
    return slices(weight.shape[0], chunk_length(weight.shape[0], column_bytes, x_bytes, TILE))


def _logits(x: Tensor, weight: Tensor, bias: Tensor | None, part: slice) -> Tensor:
    block = weight[part].transpose(0, 1)
    return x @ block if bias is None else torch.addmm(bias[part], x, block)
