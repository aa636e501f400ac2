"""Optimizers by name."""

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from muse_bench.config import Optimizer
from muse_bench.optim.adafactor_8bit import Adafactor8bit
from muse_bench.optim.adamw_8bit import AdamW8bit
from muse_bench.optim.apollo_mini import ApolloMini
from muse_bench.optim.muon_8bit import Muon8bit

DEFAULT_EPSILON = 1e-8


def build_optimizer(
    name: Optimizer, parameters: Iterable[nn.Parameter], vocab_size: int
) -> torch.optim.Optimizer | None:
    """The optimizer of this name with PyTorch's defaults (in float16 with a larger epsilon); None for 'none'.

    Where tables are moved otherwise than matrices, they are known by a side of `vocab_size`.
    """
    if name == "none":
        return None
    if name == "sgd":
        return torch.optim.SGD(parameters)
    if name == "adafactor":
        return torch.optim.Adafactor(parameters)
    if name == "adamw-8bit":
        return AdamW8bit(parameters)
    if name == "muon-8bit":
        return Muon8bit(parameters)
    if name == "apollo-mini":
        return ApolloMini(parameters)
    if name == "adafactor-8bit":
        return Adafactor8bit(parameters, vocab_size)
    parameters = list(parameters)
    return torch.optim.AdamW(parameters, eps=_epsilon(parameters), fused=True if name == "adamw-fused" else None)


def _epsilon(parameters: Sequence[nn.Parameter]) -> float:
    """PyTorch's default, but no less than float16 can hold: there it would be zero, and the first update not finite."""
    smallest = max((torch.finfo(parameter.dtype).smallest_normal for parameter in parameters), default=0.0)
    return max(DEFAULT_EPSILON, smallest)
