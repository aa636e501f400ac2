"""INT8 weight-only linear layers, for inference or trained so: real int8 storage, one scale an output channel."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from muse_bench.config import ModelConfig
from muse_bench.stored import Int8Parameter
from muse_kernels import int8_linear, quantise_int8
from muse_kernels.chunks import slices
from muse_kernels.precision import accumulation_dtype

CHUNK = 1 << 24  # values that are drawn at once


class Int8Linear(nn.Module):
    """y = x (scale * W_int8)^T + b. `weight`: (out, in) int8 and `scale`: (out,), both buffers."""

    weight: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = quantise_int8(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return int8_linear(x, self.weight, self.scale, bias=self.bias)


def quantise_linears(model: nn.Module) -> nn.Module:
    """Replaces every nn.Linear of the model by its INT8 form, in place, and returns the model."""
    for name, child in model.named_children():
        if type(child) is nn.Linear:
            setattr(model, name, Int8Linear(child))
        else:
            quantise_linears(child)
    return model


class TrainedInt8Linear(nn.Linear):
    """y = x (scale * steps)^T + b, trained in INT8. `weight` stands for the matrix: it gets the gradient, and is empty.

    `steps`: (out, in) int8 and `scale`: (out,), both buffers; zeros until `initialise`. A state dict has these two; of
    one that has a floating `weight`, that is quantised.
    """

    weight: Int8Parameter
    steps: Tensor
    scale: Tensor

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super(nn.Linear, self).__init__()  # that of nn.Linear takes memory for a floating weight
        self.in_features, self.out_features = in_features, out_features
        dtype = torch.get_default_dtype()
        self.register_buffer("steps", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(out_features, dtype=accumulation_dtype(dtype)))
        self.weight = Int8Parameter(torch.zeros((), dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(out_features, dtype=dtype)) if bias else None  # type: ignore[assignment]
        self._stand_for()

    def forward(self, x: Tensor) -> Tensor:
        return int8_linear(x, self.steps, self.scale, bias=self.bias, straight_through=self.weight)

    @torch.no_grad()
    def initialise(self, std: float) -> None:
        """Normal weights of this spread, drawn some rows at a time."""
        for some in slices(self.out_features, max(1, CHUNK // self.in_features)):
            drawn = torch.empty(self.steps[some].shape, dtype=self.scale.dtype, device=self.scale.device)
            self.steps[some], self.scale[some] = quantise_int8(drawn.normal_(std=std))
            if self.steps.is_meta:  # there is nothing to draw, and the others would take the same memory once more
                break

    def _stand_for(self) -> None:
        self.weight.data = self.weight.data.expand(self.out_features, self.in_features)
        self.weight.stored = (self.steps, self.scale)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As nn.Module has it; the scale stays as wide as sums are."""
        self.weight.data, scale = self.weight.data.new_zeros(()), self.scale
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.scale.dtype != accumulation_dtype(self.scale.dtype):
            self.scale = scale.to(self.scale.device)
        self._stand_for()
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[prefix + "weight"]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        name = prefix + "weight"
        if name in state_dict:
            state_dict[prefix + "steps"], state_dict[prefix + "scale"] = quantise_int8(state_dict.pop(name))
        super()._load_from_state_dict(state_dict, prefix, *rest)
        _, _, missing, *_ = rest
        if name in missing:
            missing.remove(name)


def linear_of(config: ModelConfig) -> type[nn.Linear]:
    """What the matrices of the config's blocks are made as."""
    return TrainedInt8Linear if config.weight_format == "int8" else nn.Linear


def initialise(linear: nn.Linear, std: float) -> None:
    """Normal weights of this spread."""
    if isinstance(linear, TrainedInt8Linear):
        linear.initialise(std)
    else:
        nn.init.normal_(linear.weight, std=std)
