"""The same step in plain PyTorch, some rows at a time."""

import torch
from torch import Tensor

from muse_kernels.chunks import slices
from muse_kernels.int8_step.rates import LARGEST_STEP, LEAST_SCALE, RANDOM_BITS, Int8Rates

CHUNK = 1 << 18  # values


def step(weight_int8: Tensor, scale: Tensor, update: Tensor, lr: Tensor, rates: Int8Rates) -> None:
    """As muse_kernels.int8_step.int8_step_, with the random bits of PyTorch's own generator."""
    rows = max(1, CHUNK // max(1, weight_int8.shape[1]))
    for some in slices(len(weight_int8) if weight_int8.numel() else 0, rows):
        steps, sizes = weight_int8[some], scale[some]
        moved = steps * (1 - lr * rates.decay) - update[some].to(sizes.dtype) * (lr * rates.scale / sizes).unsqueeze(1)
        peak = moved.abs().amax(1)
        ratio = torch.where(peak == 0, 1, peak / LARGEST_STEP)  # 1 for a row of zeros, and exactly 1 for a peak of 127
        ratio = torch.maximum(ratio, LEAST_SCALE / sizes)
        noise = torch.randint(0, 1 << RANDOM_BITS, steps.shape, dtype=torch.int32, device=steps.device)
        counted = (moved / ratio.unsqueeze(1) + (noise + 0.5) / (1 << RANDOM_BITS)).floor_()
        steps.copy_(counted.clamp_(-LARGEST_STEP, LARGEST_STEP))
        sizes.mul_(ratio)
