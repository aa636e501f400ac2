"""INT8 weight-only linear layers, for inference or trained so: real int8 storage, one scale an output channel."""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from muse_bench.config import ModelConfig, WeightFormat
from muse_bench.layers.int4 import Int4Linear
from muse_bench.layers.stored_linear import StoredLinear
from muse_bench.stored import Int8Parameter
from muse_kernels import int8_linear, quantise_int8
from muse_kernels.precision import accumulation_dtype


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

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As nn.Module has it; the scale stays as wide as sums are."""
        scale = self.scale
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.scale.dtype != accumulation_dtype(self.scale.dtype):
            self.scale = scale.to(self.scale.device)
        return self


def quantise_linears(model: nn.Module) -> nn.Module:
    """Replaces every nn.Linear of the model by its INT8 form, in place, and returns the model."""
    for name, child in model.named_children():
        if type(child) is nn.Linear:
            setattr(model, name, Int8Linear(child))
        else:
            quantise_linears(child)
    return model


class TrainedInt8Linear(StoredLinear):
    """y = x (scale * steps)^T + b, trained in INT8. `steps`: (out, in) int8 and `scale`: (out,).

    `weight` gets the gradient of the matrix.
    """

    def forward(self, x: Tensor) -> Tensor:
        return int8_linear(x, self.steps, self.scale, bias=self.bias, straight_through=self.weight)

    def zeros(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """As StoredLinear has it; the scale is as wide as sums are."""
        steps = torch.zeros(self.out_features, self.in_features, dtype=torch.int8)
        return steps, torch.ones(self.out_features, dtype=accumulation_dtype(dtype))

    def standing(self, dtype: torch.dtype) -> Int8Parameter:
        """As StoredLinear has it."""
        return Int8Parameter(torch.zeros((), dtype=dtype))

    def quantise(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """As StoredLinear has it."""
        return quantise_int8(weight)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As nn.Module has it; the scale stays as wide as sums are."""
        scale = self.scale
        super()._apply(fn, recurse)
        if self.scale.dtype != accumulation_dtype(self.scale.dtype):
            self.scale = scale.to(self.scale.device)
            self._stand_for()
        return self


LINEARS: dict[WeightFormat, type[nn.Linear]] = {"native": nn.Linear, "int8": TrainedInt8Linear, "int4": Int4Linear}


def linear_of(config: ModelConfig) -> type[nn.Linear]:
    """What the matrices of the config's blocks are made as."""
    return LINEARS[config.weight_format]


def initialise(linear: nn.Linear, std: float) -> None:
    """Normal weights of this spread."""
    if isinstance(linear, StoredLinear):
        linear.initialise(std)
    else:
        nn.init.normal_(linear.weight, std=std)
