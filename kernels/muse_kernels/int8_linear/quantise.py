"""Symmetric INT8 quantisation with one scale for each output channel."""

import torch
from torch import Tensor

from muse_kernels.chunks import chunk_length, slices
from muse_kernels.precision import accumulation_dtype

LARGEST = 127  # symmetric: -128 is not used


def quantise_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The INT8 weight and its scales, by blocks of rows."""
    wide, (out_features, in_features) = accumulation_dtype(weight.dtype), weight.shape
    quantised = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scale = torch.empty(out_features, dtype=wide, device=weight.device)
    rows = chunk_length(out_features, in_features * wide.itemsize, out_features * in_features)
    for part in slices(out_features, rows):
        block = weight[part].to(wide, copy=True)
        # An all-zero row (or one so small that its scale vanishes) keeps scale 1, so that 0 / scale is 0.
        largest = torch.linalg.vector_norm(block, ord=float("inf"), dim=1).div_(LARGEST)
        scale[part] = largest.masked_fill_(largest == 0, 1)
        quantised[part] = block.div_(scale[part].unsqueeze(-1)).round_().clamp_(-LARGEST, LARGEST)
        del block  # before the next one
    return quantised, scale
