"""Linear layers of 4-bit weights, for inference: unpacked when they are multiplied with, and then gone."""

import torch
from torch import Tensor
from torch.nn import functional

from muse_bench.layers.stored_linear import StoredLinear
from muse_bench.stored import Int4Parameter
from muse_kernels import int4_unpack, quantise_int4
from muse_kernels.chunks import slices
from muse_kernels.int4_unpack import ZEROS, packed_shapes

# Rows of the matrix that are unpacked at once: with 1,024 tokens, a tile of 128 x 128 of the product for each of the
# 132 multiprocessors of an H200. All rows at once would take gigabytes in the widest models.
PANEL = 17 * 128


class Int4Linear(StoredLinear):
    """y = x W^T + b. `steps`: (out, ceil(in / 2)) uint8; `scale`: (out, ceil(in / 128)) in the model's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        if self.out_features <= PANEL:
            return self._part(x, slice(None))
        y = x.new_empty(*x.shape[:-1], self.out_features)
        for rows in slices(self.out_features, PANEL):
            y[..., rows] = self._part(x, rows)
        return y

    def _part(self, x: Tensor, rows: slice) -> Tensor:
        weight = int4_unpack(self.steps[rows], self.scale[rows], self.in_features)
        return functional.linear(x, weight, None if self.bias is None else self.bias[rows])

    def zeros(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """As StoredLinear has it."""
        steps, scale = packed_shapes(self.out_features, self.in_features)
        return torch.full(steps, ZEROS, dtype=torch.uint8), torch.ones(scale, dtype=dtype)

    def standing(self, dtype: torch.dtype) -> Int4Parameter:
        """As StoredLinear has it; it takes no gradient."""
        return Int4Parameter(torch.zeros((), dtype=dtype), requires_grad=False)

    def quantise(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """As StoredLinear has it."""
        return quantise_int4(weight.to(self.scale.dtype))
