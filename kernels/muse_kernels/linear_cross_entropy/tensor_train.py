"""Cross-entropy of a tensor-train head, chunk by chunk of tokens: gradients go straight into the cores."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from muse_kernels.linear_cross_entropy.softmax import Loss, logits_gradient_, reduce_, start_statistics
from muse_kernels.tt_linear.contraction import Head, HeadGradients


class TensorTrainCrossEntropy(torch.autograd.Function):
    """Saves x, targets and two statistics a token; the cores are parameters, saved by reference."""

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
        head, (statistics, picked) = Head.of(core1, core2, theta), start_statistics(x)
        for part in head.chunks(x):
            scores = head.logits(x[part])[:, :vocab_size].to(statistics.dtype)
            reduce_(scores, 0, targets[part], statistics[:, part], picked[part])
            del scores  # before the next chunk
        ctx.save_for_backward(x, core1, core2, theta, targets, statistics)
        ctx.vocab_size, ctx.loss = vocab_size, loss
        return loss.total(targets, statistics, picked)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None, None, None]:
        x, core1, core2, theta, targets, statistics = ctx.saved_tensors
        head = Head.of(core1, core2, theta)
        token_grads = ctx.loss.token_gradients(grad, targets, statistics)
        grad_x, gradients = x.new_empty(x.shape), HeadGradients(head, x.shape[1])
        for part in head.chunks(x):
            matrices, y = head.contract_left(x[part])
            logits = head.contract_right(y)
            inside = logits[:, : ctx.vocab_size]
            scores = inside.to(statistics.dtype)
            logits_gradient_(scores, 0, targets[part], statistics[0, part], token_grads[:, part])
            inside.copy_(scores)
            del scores
            logits[:, ctx.vocab_size :].zero_()
            grad_x[part] = gradients.add(logits, matrices, y)
            del logits, inside, matrices, y
        return grad_x, *gradients.finish(core1, core2, theta), None, None, None
