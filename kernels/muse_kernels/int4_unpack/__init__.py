"""Matrices of 4-bit values with one scale for each group of a row, and back to floating ones."""

import torch
from torch import Tensor

from muse_kernels.arguments import check_dimensions, check_dtype, check_floating, check_same_device, check_shape
from muse_kernels.implementation import Implementation, launches, resolve
from muse_kernels.int4_unpack import eager
from muse_kernels.int4_unpack.packing import ZEROS, packed_shapes
from muse_kernels.int4_unpack.quantise import quantise_groups
from muse_kernels.int4_unpack.reference import int4_unpack as reference

__all__ = ["ZEROS", "int4_unpack", "packed_shapes", "quantise_int4"]


def int4_unpack(packed: Tensor, scale: Tensor, in_features: int, *, implementation: Implementation = "auto") -> Tensor:
    """(value - 8) * scale for each value from 0 to 15 of a packed matrix, or of some of its rows.

    Args:
        packed: (out_features, ceil(in_features / 2)), uint8: of two values side by side, the first in the low bits.
        scale: (out_features, ceil(in_features / 128)), floating: one for each 128 values of a row; of either sign.
        implementation: "reference", "eager", "triton", or "auto" (see `resolve`).
    Returns: (out_features, in_features), dtype of scale, contiguous; each product is rounded once. No gradient.
    Memory: "triton" takes no scratch, "eager" the bytes of packed.
    Raises: ValueError on a shape, dtype or device mismatch.
    """
    check_dimensions("packed", packed, ["out_features", "ceil(in_features / 2)"])
    packed_shape, scale_shape = packed_shapes(packed.shape[0], in_features)
    check_shape("packed", packed, packed_shape)
    check_dtype("packed", packed, [torch.uint8])
    check_floating("scale", scale)
    check_shape("scale", scale, scale_shape)
    check_same_device(packed=packed, scale=scale)
    with torch.no_grad():
        chosen = resolve(implementation, scale)
        if chosen == "reference":
            return reference(packed, scale, in_features)
        weight = scale.new_empty(packed.shape[0], in_features)
        if chosen == "eager":
            eager.unpack(packed, scale, weight)
        elif launches(weight):
            from muse_kernels.int4_unpack import kernel

            kernel.unpack(packed, scale, weight)
        return weight


def quantise_int4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric 4-bit values and their scales: a group's value that is largest in size is -8 steps, and exact.

    Args:
        weight: (out_features, in_features), floating, finite.
    Returns: packed and scale, as `int4_unpack` takes them; the scale has the weight's dtype. Each value is the nearest
        of 16: it errs by half a step, and by one step at most where it lies opposite to the largest. A group of zeros
        has scale 1.
    Memory: scratch of one block of rows in float32, about a byte for each value of the weight (at least 1 MiB), and
        half as much again.
    Raises: ValueError if the weight is not a floating matrix.
    Source: ggml's Q4_0 (github.com/ggml-org/ggml), here in the groups of 128 of Frantar et al. 2022, arXiv:2210.17323.
    """
    check_dimensions("weight", weight, ["out_features", "in_features"])
    check_floating("weight", weight)
    with torch.no_grad():
        return quantise_groups(weight)
