"""Gated scan: the definition."""

import torch
from torch import Tensor

from muse_kernels.diagonal_scan.reference import states
from muse_kernels.precision import accumulation_dtype


def gated_scan(
    u: Tensor, v: Tensor, scores: Tensor, decay: Tensor | None, initial: Tensor | None, hard: bool
) -> tuple[Tensor, Tensor]:
    """h = scan(u * gate), and h * v * gate, rounded once."""
    dtype, wide = u.dtype, accumulation_dtype(u.dtype)
    u, v, gate = u.to(wide), v.to(wide), torch.sigmoid(scores.to(wide))
    if hard:
        gate = (scores > 0).to(wide) + (gate - gate.detach())
    if initial is None:
        initial = u.new_zeros(u.shape[0], u.shape[2])
    h = states(u * gate, decay, initial.to(wide))
    return (h[:, 1:] * v * gate).to(dtype), h[:, -1]
