"""Depthwise causal convolution, tap by tap in place."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from muse_kernels.precision import accumulation_dtype


class CausalConvolution(torch.autograd.Function):
    """Saves x, weight and before."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, before: Tensor | None, add: Tensor | None) -> Tensor:
        taps, seq = weight.to(x.dtype), x.shape[1]
        y = x * taps[-1]
        for tap, lag, ahead, rows in _lags(taps, seq):
            y[:, lag:].addcmul_(x[:, : max(seq - lag, 0)], taps[tap])
            if before is not None:
                y[:, :ahead].addcmul_(before[:, rows], taps[tap])
        if add is not None:
            y.add_(add)
        ctx.save_for_backward(x, weight, before)
        ctx.add_dtype = None if add is None else add.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, before = ctx.saved_tensors
        grad_x = _input_gradient(grad, weight.to(grad.dtype)) if ctx.needs_input_grad[0] else None
        grad_weight = _weight_gradient(grad, x, weight, before) if ctx.needs_input_grad[1] else None
        grad_before = _before_gradient(grad, weight.to(grad.dtype)) if ctx.needs_input_grad[2] else None
        return grad_x, grad_weight, grad_before, None if ctx.add_dtype is None else grad.to(ctx.add_dtype)


def _lags(taps: Tensor, seq: int) -> Iterator[tuple[int, int, int, slice]]:
    """For each tap but the last: its row, how many tokens back it looks, and which first tokens see which of before."""
    width = taps.shape[0]
    for tap in range(width - 1):
        lag = width - 1 - tap
        ahead = min(lag, seq)
        yield tap, lag, ahead, slice(tap, tap + ahead)


def _input_gradient(grad: Tensor, taps: Tensor) -> Tensor:
    seq = grad.shape[1]
    grad_x = grad * taps[-1]
    for tap, lag, _, _ in _lags(taps, seq):
        grad_x[:, : max(seq - lag, 0)].addcmul_(grad[:, lag:], taps[tap])
    return grad_x


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, before: Tensor | None) -> Tensor:
    wide, seq = accumulation_dtype(grad.dtype), grad.shape[1]
    grad_weight = torch.empty(weight.shape, dtype=wide, device=weight.device)
    torch.sum(grad * x, (0, 1), dtype=wide, out=grad_weight[-1])
    for tap, lag, ahead, rows in _lags(weight, seq):
        torch.sum(grad[:, lag:] * x[:, : max(seq - lag, 0)], (0, 1), dtype=wide, out=grad_weight[tap])
        if before is not None:
            grad_weight[tap] += (grad[:, :ahead] * before[:, rows]).sum((0, 1), dtype=wide)
    return grad_weight.to(weight.dtype)


def _before_gradient(grad: Tensor, taps: Tensor) -> Tensor:
    grad_before = grad.new_zeros(grad.shape[0], taps.shape[0] - 1, grad.shape[2])
    for tap, _, ahead, rows in _lags(taps, grad.shape[1]):
        grad_before[:, rows].addcmul_(grad[:, :ahead], taps[tap])
    return grad_before
