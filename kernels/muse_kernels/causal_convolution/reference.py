"""Depthwise causal convolution: the definition."""

import torch
from torch import Tensor

from muse_kernels.precision import accumulation_dtype


def causal_convolution(x: Tensor, weight: Tensor, before: Tensor | None, add: Tensor | None) -> Tensor:
    """Taps over the sequence behind `before`, rounded once."""
    wide, (width, seq) = accumulation_dtype(x.dtype), (weight.shape[0], x.shape[1])
    if before is None:
        before = x.new_zeros(x.shape[0], width - 1, x.shape[2])
    padded = torch.cat((before, x), dim=1).to(wide)
    y = sum((padded[:, tap : tap + seq] * weight[tap] for tap in range(width)), start=torch.zeros_like(x, dtype=wide))
    return (y if add is None else y + add).to(x.dtype)
