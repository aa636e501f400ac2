"""Cross-entropy of a dense head: forward by chunks of tokens, backward by blocks of the vocabulary.

A block of the vocabulary sees every token, so each row of the weight's gradient is one whole product, written
once and rounded once; only the input's gradient, which is small, is summed over blocks, in float32.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from muse_kernels.chunks import chunk_length, slices
from muse_kernels.linear_cross_entropy.softmax import Loss, empty_statistics, logits_gradient_, reduce_
from muse_kernels.precision import add_product_

TILE = 64  # rows or columns a block is rounded up to: a matrix-product tile, so that none runs mostly empty


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
        statistics, picked = empty_statistics(x)
        row_bytes = weight.shape[0] * x.element_size()
        for part in slices(x.shape[0], chunk_length(x.shape[0], row_bytes, _bytes(x), TILE)):
            scores = _logits(x[part], weight, bias).to(statistics.dtype)
            reduce_(scores, targets[part], statistics[:, part], picked[part])
            del scores  # before the next chunk
        ctx.save_for_backward(x, weight, bias, targets, statistics)
        ctx.loss = loss
        return loss.total(targets, statistics, picked)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, weight, bias, targets, statistics = ctx.saved_tensors
        wide, vocab_size = statistics.dtype, weight.shape[0]
        token_grads = ctx.loss.token_gradients(grad, targets, statistics)
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_x = torch.zeros(x.shape, dtype=wide, device=x.device) if needs_x else None
        grad_weight = weight.new_empty(weight.shape) if needs_weight else None
        grad_bias = bias.new_empty(bias.shape) if needs_bias else None
        column_bytes = x.shape[0] * x.element_size()
        for part in slices(vocab_size, chunk_length(vocab_size, column_bytes, _bytes(x), TILE)):
            logits = _logits(x, weight[part], None if bias is None else bias[part])
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


def _logits(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x @ weight.transpose(0, 1) if bias is None else torch.addmm(bias, x, weight.transpose(0, 1))


def _bytes(x: Tensor) -> int:
    return x.element_size() * x.shape[0] * x.shape[1]
