"""Feed-forward parts: dense d -> 4d -> d, low-rank d -> r -> d, four-matrix d -> r -> 4d -> r -> d."""

from torch import nn

from muse_bench.config import ModelConfig

EXPANSION = 4


def build_ffn(config: ModelConfig) -> nn.Module:
    """The feed-forward part that the config names, (..., d_model) to (..., d_model), with biases."""
    d, wide = config.d_model, EXPANSION * config.d_model
    if config.ffn == "dense":
        return nn.Sequential(nn.Linear(d, wide), nn.GELU(), nn.Linear(wide, d))
    rank = config.ffn_rank
    assert rank is not None  # the config validates it
    if config.ffn == "low-rank":
        return nn.Sequential(nn.Linear(d, rank), nn.ReLU(), nn.Linear(rank, d))
    return nn.Sequential(
        nn.Linear(d, rank),
        nn.ReLU(),
        nn.Linear(rank, wide),
        nn.ReLU(),
        nn.Linear(wide, rank),
        nn.ReLU(),
        nn.Linear(rank, d),
    )
