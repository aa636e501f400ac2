"""Optimizers by name."""

from collections.abc import Iterable

import torch
from torch import nn

from muse_bench.config import Optimizer
from muse_bench.optim.adamw_8bit import AdamW8bit


def build_optimizer(name: Optimizer, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer | None:
    """The optimizer of this name with PyTorch's defaults; None for 'none'."""
    if name == "none":
        return None
    if name == "sgd":
        return torch.optim.SGD(parameters)
    if name == "adafactor":
        return torch.optim.Adafactor(parameters)
    if name == "adamw-8bit":
        return AdamW8bit(parameters)
    return torch.optim.AdamW(parameters, fused=True if name == "adamw-fused" else None)
