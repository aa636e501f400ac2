"""Normalisation layers."""

import torch
from torch import Tensor, nn

from muse_bench.config import ModelConfig
from muse_kernels import rms_norm


class RMSNorm(nn.Module):
    """x / rms(x) * weight, the mean square taken in float32. Source: Zhang and Sennrich 2019, arXiv:1910.07467."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor) -> Tensor:
        normed = rms_norm(x, self.weight)
        assert isinstance(normed, Tensor)
        return normed


def build_norm(config: ModelConfig) -> nn.Module:
    """The norm that the config names, at the width of the model."""
    return nn.LayerNorm(config.d_model) if config.norm == "layer-norm" else RMSNorm(config.d_model)
