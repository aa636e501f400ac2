"""Running sum and diagonal recurrence along dim 1, held in float32 and scanned in place."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from muse_kernels.precision import accumulation_dtype


class RunningSum(torch.autograd.Function):
    """Saves nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _wide_copy(x).cumsum_(1).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        wide = accumulation_dtype(grad.dtype)
        return grad.flip(1).to(wide).cumsum_(1).to(grad.dtype).flip(1)


class DiagonalScan(torch.autograd.Function):
    """Saves decay and the output h."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, decay: Tensor) -> Tensor:
        h = _wide_copy(x)
        scan_(_wide_copy(decay.expand_as(x)), h)
        h = h.to(x.dtype)
        ctx.save_for_backward(decay, h)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        decay, h = ctx.saved_tensors
        grad_h = reversed_scan(decay, grad)
        return grad_h.to(grad.dtype), _decay_gradient(decay, grad_h, h)


def reversed_scan(decay: Tensor, grad: Tensor) -> Tensor:
    """dh_t = grad_t + a_{t+1} dh_{t+1}: the same scan on flipped time, with the decays one step late."""
    wide = accumulation_dtype(grad.dtype)
    grad_h = grad.flip(1).to(wide)
    scan_(decay.expand(grad.shape).flip(1).roll(1, 1).to(wide), grad_h)
    return grad_h.flip(1)


def _decay_gradient(decay: Tensor, grad_h: Tensor, h: Tensor) -> Tensor:
    """dh_t * h_{t-1}, summed over batch and time where the decay is one a channel."""
    if decay.dim() == 1:
        return (grad_h[:, 1:] * h[:, :-1]).sum((0, 1)).to(decay.dtype)
    grad_decay = torch.empty(decay.shape, dtype=decay.dtype, device=decay.device)
    grad_decay[:, :1].zero_()
    torch.mul(grad_h[:, 1:], h[:, :-1], out=grad_decay[:, 1:])
    return grad_decay


def scan_(decay: Tensor, h: Tensor) -> None:
    """h_t += a_t h_{t-1} along dim 1, in place, by about 3 log2(seq) operations; decay is overwritten.

    Upwards, each position 2s-1, 4s-1, ... takes in the block of s before it; downwards, the positions between
    them take in the finished prefix (Brent and Kung 1982). Decays are only multiplied, never divided.
    """
    seq, step = h.shape[1], 1
    while 2 * step <= seq:
        right = slice(2 * step - 1, None, 2 * step)
        left = slice(step - 1, seq - step, 2 * step)
        h[:, right].addcmul_(decay[:, right], h[:, left])
        decay[:, right].mul_(decay[:, left])
        step *= 2
    while step >= 1:
        right = slice(3 * step - 1, None, 2 * step)
        left = slice(2 * step - 1, seq - step, 2 * step)
        h[:, right].addcmul_(decay[:, right], h[:, left])
        step //= 2


def _wide_copy(x: Tensor) -> Tensor:
    return x.to(accumulation_dtype(x.dtype), copy=True, memory_format=torch.contiguous_format)
