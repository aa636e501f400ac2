"""The step of an optimizer on a matrix that is stored in INT8 with a scale for each row, and nowhere else."""

import torch
from torch import Tensor

from muse_kernels.arguments import check_dimensions, check_dtype, check_floating, check_same_device, check_shape
from muse_kernels.implementation import Implementation, launches, resolve
from muse_kernels.int8_step import eager
from muse_kernels.int8_step.rates import Int8Rates

__all__ = ["Int8Rates", "int8_step_"]


def int8_step_(
    weight_int8: Tensor,
    scale: Tensor,
    update: Tensor,
    count: Tensor,
    *,
    lr: Tensor,
    rates: Int8Rates,
    implementation: Implementation = "auto",
) -> None:
    """w = (1 - lr decay) w - lr rates.scale update for w = weight_int8 * scale, rows rounded at random to their steps.

    A row's new scale is its largest value over 127: the largest is exact, nothing is cut off, and each other value is
    rounded up or down with the probabilities that make it right on average. A row whose largest value stays keeps
    its scale, and values of it that do not move stay to the bit. A row of zeros keeps its scale.

    Args:
        weight_int8: (out_features, in_features), int8, contiguous, values in [-127, 127]; updated.
        scale: (out_features,), float32 (float64 for "eager"), contiguous, positive; updated.
        update: of the weight's shape, floating, any strides.
        count: int64 scalar on the device that seeds the random bits, with rates.salt.
        lr: floating scalar on the device.
    Memory: "triton" takes no scratch; "eager" some float32 copies of rows, about 2^18 values.
    Accuracy: the mean errs by 2^-17 of a step at most, from 16 random bits. Scales stay above 2^-63, which holds what
        lies below 127 * 2^-63 to about zero.
    Raises: ValueError on a shape, dtype or device mismatch, or a weight or scale that is not contiguous.
    Source: Gupta et al. 2015, arXiv:1502.02551 (stochastic rounding); Zhang et al. 2024, arXiv:2407.08296 (INT8 weights
        that are trained without another copy).
    """
    check_dimensions("weight_int8", weight_int8, ["out_features", "in_features"])
    check_dtype("weight_int8", weight_int8, [torch.int8])
    check_dtype("scale", scale, [torch.float32, torch.float64])
    check_shape("scale", scale, weight_int8.shape[:1])
    check_floating("update", update)
    check_shape("update", update, weight_int8.shape)
    check_same_device(weight_int8=weight_int8, scale=scale, update=update, count=count, lr=lr)
    for name, tensor in (("weight_int8", weight_int8), ("scale", scale)):
        if not tensor.is_contiguous():
            raise ValueError(f"{name}: must be contiguous, for it is updated in place")
    if resolve(implementation, update, scale) != "triton":
        eager.step(weight_int8, scale, update, lr, rates)
    elif launches(weight_int8):
        from muse_kernels.int8_step import kernel

        kernel.step(weight_int8, scale, update, count, lr, rates)
