"""Symmetric 4-bit quantisation with one scale for each group of a row."""

import torch
from torch import Tensor

from muse_kernels.chunks import chunk_length, slices
from muse_kernels.int4_unpack.packing import BITS, GROUP, LOW_BITS, PAIR, ZERO, packed_shapes
from muse_kernels.precision import accumulation_dtype


def quantise_groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The packed weight and its scales, by blocks of rows."""
    out_features, in_features = weight.shape
    packed_shape, scale_shape = packed_shapes(out_features, in_features)
    packed = torch.empty(packed_shape, dtype=torch.uint8, device=weight.device)
    scale = torch.empty(scale_shape, dtype=weight.dtype, device=weight.device)
    row_bytes = in_features * accumulation_dtype(weight.dtype).itemsize
    for part in slices(out_features, chunk_length(out_features, row_bytes, out_features * in_features)):
        packed[part], scale[part] = _quantise(weight[part])
    return packed, scale


def _quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    rows, in_features = weight.shape
    groups = -(-in_features // GROUP)
    wide = weight.new_zeros(rows, groups * GROUP, dtype=accumulation_dtype(weight.dtype))
    wide[:, :in_features] = weight
    grouped = wide.view(rows, groups, GROUP)
    high, low = grouped.amax(-1), grouped.amin(-1)
    # A division by a power of two: exact, unless the scale is all but zero. One that vanishes becomes 1: 0 / 1 is 0.
    scale = (torch.where(high > -low, high, low) / -ZERO).to(weight.dtype)
    scale.masked_fill_(scale == 0, 1)
    grouped.div_(scale.unsqueeze(-1)).round_().add_(ZERO).clamp_(0, LOW_BITS)
    stored = wide[:, : in_features + in_features % PAIR].to(torch.uint8)
    return stored[:, ::PAIR] | stored[:, 1::PAIR] << BITS, scale
