"""Feed-forward parts: dense d -> 4d -> d, low-rank d -> r -> d, four-matrix d -> r -> 4d -> r -> d."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from muse_bench.config import ModelConfig
from muse_bench.layers.quantised import linear_of
from muse_kernels import low_rank_ffn

EXPANSION = 4


class LowRankFFN(nn.Sequential):
    """Linear layers with ReLU between them, run as one operation that never keeps the wide vectors."""

    def __init__(self, *widths: int, linear: type[nn.Linear] = nn.Linear) -> None:
        layers: list[nn.Module] = []
        for width, next_width in pairwise(widths):
            layers += [linear(width, next_width), nn.ReLU()]
        super().__init__(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        linears = [layer for layer in self if type(layer) is nn.Linear]
        if not all(_is_plain(layer) for layer in self):
            y: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return y
        operands = [x, *(linear.weight for linear in linears), *(linear.bias for linear in linears)]
        dtype = _autocast_dtype(x)
        x, *parameters = operands if dtype is None else [operand.to(dtype) for operand in operands]
        return low_rank_ffn(x, parameters[: len(linears)], parameters[len(linears) :])


def build_ffn(config: ModelConfig) -> nn.Module:
    """The feed-forward part that the config names, (..., d_model) to (..., d_model), with biases."""
    d, wide, linear = config.d_model, EXPANSION * config.d_model, linear_of(config)
    if config.ffn == "dense":
        return nn.Sequential(linear(d, wide), nn.GELU(), linear(wide, d))
    rank = config.ffn_rank
    assert rank is not None  # the config validates it
    widths = (d, rank, d) if config.ffn == "low-rank" else (d, rank, wide, rank, d)
    return LowRankFFN(*widths, linear=linear)


def _is_plain(layer: nn.Module) -> bool:
    """Whether the layer is what it was made as: quantised, replaced or hooked, it has to run itself."""
    hooked = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    return type(layer) in (nn.Linear, nn.ReLU) and not hooked


def _autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype in which autocast would have nn.Linear multiply x; None if it is off.

    On meta, autocast is a mode that only a product meets: an empty one, which takes no memory.
    """
    if x.dtype == torch.float64:
        return None
    if x.device.type == "meta":
        found = torch.matmul(x.new_empty(0, 1, dtype=torch.float32), x.new_empty(1, 0, dtype=torch.float32)).dtype
        return None if found == torch.float32 else found
    enabled = torch.is_autocast_enabled(x.device.type)
    return torch.get_autocast_dtype(x.device.type) if enabled else None
