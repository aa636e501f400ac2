"""Accumulation: sums over many terms are held in float32, or in float64 for float64 inputs."""

import torch
from torch import Tensor


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which values of this dtype are summed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def add_product_(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, where total may be wider than the product's dtype."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)
