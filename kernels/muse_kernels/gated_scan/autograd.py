"""The gated scan in float32, one operation after the other; the backward computes gates and states again."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from muse_kernels.diagonal_scan.autograd import reversed_scan, scan_
from muse_kernels.precision import accumulation_dtype


class GatedScan(torch.autograd.Function):
    """Saves its inputs."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, v: Tensor, scores: Tensor, decay: Tensor | None, initial: Tensor | None, hard: bool
    ) -> tuple[Tensor, Tensor]:
        gate = _gate(scores, hard)
        h = _states(u, gate, decay, initial)
        ctx.save_for_backward(u, v, scores, decay, initial)
        ctx.hard = hard
        return gate.mul_(v).mul_(h[:, 1:]).to(u.dtype), h[:, -1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_ending: Tensor) -> tuple[Tensor | None, ...]:
        u, v, scores, decay, initial = ctx.saved_tensors
        gate = _gate(scores, ctx.hard)
        h = _states(u, gate, decay, initial)
        grad_product = h[:, 1:] * grad
        grad_v = (grad_product * gate).to(v.dtype)
        grad_gate = grad_product.mul_(v)
        grad_h = _state_gradients(gate * v * grad, grad_ending, decay)
        grad_gate.addcmul_(grad_h[:, 1:], u.to(grad_h.dtype))
        grad_u = (grad_h[:, 1:] * gate).to(u.dtype)
        grad_scores = grad_gate.mul_(_slope(scores)).to(scores.dtype)
        grad_decay = _decay_gradient(decay, grad_h, h) if ctx.needs_input_grad[3] else None
        grad_initial = grad_h[:, 0].to(initial.dtype) if ctx.needs_input_grad[4] else None
        return grad_u, grad_v, grad_scores, grad_decay, grad_initial, None


def _gate(scores: Tensor, hard: bool) -> Tensor:
    wide = accumulation_dtype(scores.dtype)
    return (scores > 0).to(wide) if hard else torch.sigmoid(scores.to(wide))


def _slope(scores: Tensor) -> Tensor:
    """Of the soft gate, even where the gate is hard."""
    soft = _gate(scores, hard=False)
    return soft.mul_(1 - soft)


def _states(u: Tensor, gate: Tensor, decay: Tensor | None, initial: Tensor | None) -> Tensor:
    """The state before each step and after the last, (batch, 1 + seq, rank)."""
    first = gate.new_zeros(u.shape[0], u.shape[2]) if initial is None else initial.to(gate.dtype)
    h = torch.cat((first.unsqueeze(1), gate * u), 1)
    if decay is None:
        return h.cumsum_(1)
    scan_(_after_initial(decay, u), h)
    return h


def _state_gradients(grad: Tensor, grad_ending: Tensor, decay: Tensor | None) -> Tensor:
    """Of the states as `_states` has them; grad (batch, seq, rank) is what each step's own product sends."""
    padded = torch.cat((torch.zeros_like(grad_ending).unsqueeze(1), grad), 1)
    padded[:, -1] += grad_ending
    if decay is None:
        return padded.flip(1).cumsum_(1).flip(1)
    return reversed_scan(_after_initial(decay, grad), padded)


def _after_initial(decay: Tensor, like: Tensor) -> Tensor:
    """Decays (batch, 1 + seq, rank) in the dtype of accumulation; the one before the initial state weighs nothing."""
    decay = decay.expand_as(like).to(accumulation_dtype(like.dtype))
    return torch.cat((decay.new_ones(like.shape[0], 1, like.shape[2]), decay), 1)


def _decay_gradient(decay: Tensor, grad_h: Tensor, h: Tensor) -> Tensor:
    """dh_t * h_{t-1}, summed over batch and time where the decay is one a channel."""
    product = grad_h[:, 1:] * h[:, :-1]
    return (product.sum((0, 1)) if decay.dim() == 1 else product).to(decay.dtype)
