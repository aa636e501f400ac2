"""Diagonal linear recurrence: the definition, a loop over time."""

import torch
from torch import Tensor

from muse_kernels.precision import accumulation_dtype


def diagonal_scan(x: Tensor, decay: Tensor | None) -> Tensor:
    """h_t = a_t * h_{t-1} + x_t, with h_{-1} = 0."""
    batch, seq, rank = x.shape
    h = x.new_zeros(batch, rank, dtype=accumulation_dtype(x.dtype))
    states = []
    for t in range(seq):
        h = h + x[:, t] if decay is None else decay[:, t] * h + x[:, t]
        states.append(h)
    return torch.stack(states, 1).to(x.dtype) if states else x.clone()
