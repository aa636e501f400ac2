"""Matrices of 4-bit values: the definition."""

import torch
from torch import Tensor

from muse_kernels.int4_unpack.packing import BITS, GROUP, LOW_BITS, ZERO


def int4_unpack(packed: Tensor, scale: Tensor, in_features: int) -> Tensor:
    """Both values of each byte side by side, less 8, times the scale of their group."""
    stored = torch.stack((packed & LOW_BITS, packed >> BITS), dim=-1).flatten(1)[:, :in_features]
    return (stored.to(scale.dtype) - ZERO) * scale.repeat_interleave(GROUP, dim=1)[:, :in_features]
