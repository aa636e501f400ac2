"""How a first moment is kept: blocks of 256 signed steps, each with its scale."""

import torch
from torch import Tensor

BLOCK = 256
LARGEST_STEP = 127


def new_moment(parameter: Tensor) -> tuple[Tensor, Tensor]:
    """A moment of zeros for a parameter: steps (blocks, 256) int8 and scale (blocks,) float32; 1.016 bytes a value."""
    blocks = -(-parameter.numel() // BLOCK)
    steps = torch.zeros(blocks, BLOCK, dtype=torch.int8, device=parameter.device)
    return steps, torch.zeros(blocks, dtype=torch.float32, device=parameter.device)
