"""Random signs that follow from counts on the device: nothing is stored, and a captured CUDA graph draws new ones."""

import torch
from torch import Tensor

MULTIPLIER = 0x45D9F3B  # below 2^27: products with 32 bits stay within an int64
MASK = (1 << 32) - 1


def random_signs(count: int, draw: Tensor, salt: int) -> Tensor:
    """1 or -1, (count,) float32: the same for the same draw (int64 scalar on the device) and salt, else unrelated."""
    seed = _mixed(_mixed(draw + 1) + salt)
    bits = _mixed(_mixed(torch.arange(count, device=draw.device) ^ seed) + seed)
    return (bits >> 16 & 1).mul_(2).sub_(1).float()


def _mixed(x: Tensor) -> Tensor:
    """32 bits, each of which depends on all of x's. Source: Thomas Mueller's integer hash."""
    x = x & MASK
    for _ in range(2):
        x = (x ^ x >> 16) * MULTIPLIER & MASK
    return x ^ x >> 16
