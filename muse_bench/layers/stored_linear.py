"""Linear layers whose matrix is stored in another form, of fewer bits, and nowhere else."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from muse_bench.stored import StoredParameter
from muse_kernels.chunks import slices

CHUNK = 1 << 24  # values that are drawn at once


class StoredLinear(nn.Linear):
    """y = x W^T + b, where `steps` and `scale`, both buffers, hold W. `weight` stands for it, and is empty.

    They are zeros until `initialise`. A state dict has these two; of one that has a floating `weight`, that is
    quantised.
    """

    weight: StoredParameter
    steps: Tensor
    scale: Tensor

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super(nn.Linear, self).__init__()  # that of nn.Linear takes memory for a floating weight
        self.in_features, self.out_features = in_features, out_features
        dtype = torch.get_default_dtype()
        steps, scale = self.zeros(dtype)
        self.register_buffer("steps", steps)
        self.register_buffer("scale", scale)
        self.weight = self.standing(dtype)
        self.bias = nn.Parameter(torch.zeros(out_features, dtype=dtype)) if bias else None  # type: ignore[assignment]
        self._stand_for()

    @abstractmethod
    def zeros(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Steps and scale of a matrix of zeros, in a model of this dtype."""

    @abstractmethod
    def standing(self, dtype: torch.dtype) -> StoredParameter:
        """What stands for the matrix: one value."""

    @abstractmethod
    def quantise(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Steps and scale of a floating matrix, or of some rows of one."""

    @torch.no_grad()
    def initialise(self, std: float) -> None:
        """Normal weights of this spread, drawn some rows at a time."""
        for some in slices(self.out_features, max(1, CHUNK // self.in_features)):
            shape = (some.stop - some.start, self.in_features)
            drawn = torch.empty(shape, dtype=self.scale.dtype, device=self.scale.device)
            self.steps[some], self.scale[some] = self.quantise(drawn.normal_(std=std))
            if self.steps.is_meta:  # there is nothing to draw, and the others would take the same memory once more
                break

    def _stand_for(self) -> None:
        self.weight.data = self.weight.data.expand(self.out_features, self.in_features)
        self.weight.stored = (self.steps, self.scale)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.weight.data = self.weight.data.new_zeros(())
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._stand_for()
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[prefix + "weight"]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        name = prefix + "weight"
        if name in state_dict:
            state_dict[prefix + "steps"], state_dict[prefix + "scale"] = self.quantise(state_dict.pop(name))
        super()._load_from_state_dict(state_dict, prefix, *rest)
        _, _, missing, *_ = rest
        if name in missing:
            missing.remove(name)
