"""Logits against a tensor-train table, chunk by chunk of tokens; the backward contracts again."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from muse_kernels.tt_linear.contraction import Head, HeadGradients


class TTLinear(torch.autograd.Function):
    """Saves x; the cores and theta are parameters and saved by reference."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, core1: Tensor, core2: Tensor, theta: Tensor, vocab_size: int) -> Tensor:
        ctx.save_for_backward(x, core1, core2, theta)
        head, rows = Head.of(core1, core2, theta), x.reshape(-1, x.shape[-1])
        logits = x.new_empty(rows.shape[0], vocab_size)
        for part in head.chunks(rows):
            logits[part] = head.logits(rows[part])[:, :vocab_size]
        return logits.view(*x.shape[:-1], vocab_size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        x, core1, core2, theta = ctx.saved_tensors
        head, rows = Head.of(core1, core2, theta), x.reshape(-1, x.shape[-1])
        grad_logits = grad.reshape(-1, grad.shape[-1])
        grad_x, gradients = torch.empty_like(rows), HeadGradients(head, x.shape[-1])
        for part in head.chunks(rows):
            # The gradient of a sum arrives expanded: only a chunk of it is ever copied.
            chunk = head.pad_vocab(grad_logits[part])
            grad_x[part] = gradients.add(chunk, *head.contract_left(rows[part]))
            del chunk
        return grad_x.view(x.shape), *gradients.finish(core1, core2, theta), None
