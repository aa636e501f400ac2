"""Diagonal linear recurrence: the definition, a loop over time."""

import torch
from torch import Tensor

from muse_kernels.precision import accumulation_dtype


def diagonal_scan(x: Tensor, decay: Tensor | None) -> Tensor:
    """h_t = a_t * h_{t-1} + x_t, with h_{-1} = 0."""
    initial = x.new_zeros(x.shape[0], x.shape[2], dtype=accumulation_dtype(x.dtype))
    return states(x, decay, initial)[:, 1:].to(x.dtype)


def states(x: Tensor, decay: Tensor | None, initial: Tensor) -> Tensor:
    """The initial state (batch, rank) and the one after each step: (batch, 1 + seq, rank), dtype of the initial."""
    decay = None if decay is None else decay.expand_as(x)
    h, every = initial, [initial]
    for t in range(x.shape[1]):
        h = h + x[:, t] if decay is None else decay[:, t] * h + x[:, t]
        every.append(h)
    return torch.stack(every, 1)
