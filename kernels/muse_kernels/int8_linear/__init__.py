"""Linear layer whose weight is stored in INT8 with one scale for each output channel."""

import torch
from torch import Tensor

from muse_kernels.arguments import (
    check_dimensions,
    check_dtype,
    check_floating,
    check_last_dimension,
    check_same_device,
    check_shape,
)
from muse_kernels.implementation import Implementation, resolve
from muse_kernels.int8_linear.autograd import Int8Linear
from muse_kernels.int8_linear.fused import FusedInt8Linear
from muse_kernels.int8_linear.quantise import quantise_rows
from muse_kernels.int8_linear.reference import int8_linear as reference


def int8_linear(
    x: Tensor,
    weight_int8: Tensor,
    scale: Tensor,
    *,
    bias: Tensor | None = None,
    straight_through: Tensor | None = None,
    implementation: Implementation = "auto",
) -> Tensor:
    """x @ (weight_int8 * scale)^T + bias, with the weight dequantised one block or tile at a time.

    Args:
        x: (*, in_features).
        weight_int8: (out_features, in_features), int8.
        scale: (out_features,), float32 or float64; a constant, no gradient.
        bias: (out_features,), dtype of x.
        straight_through: as weight_int8, floating: what gets the weight's gradient. Its values count as zeros and are
            not read, so one value expanded to the shape will do.
        implementation: "reference", "eager", "triton", or "auto" (see `resolve`).
    Returns: (*, out_features), dtype of x. Gradients of x, of the bias, and of straight_through where it requires
        one: all of them computed before any is handed on, so that the weight may change as soon as its gradient is
        there. "triton" multiplies the float32 sum of x * weight_int8 by the scale, with no rounding between (x beyond
        2e36 / in_features overflows it); for 1,024 rows and more it rounds the scaled weight, as "reference" does.
    Memory: saves weight_int8 and scale by reference, and x only for straight_through. Scratch of "triton": none below
        1,024 rows, else at most half of the weight in the dtype of x, and no more than 4 MiB of it or ceil(32,768 /
        rows) * 128 of its rows, in backward columns, whichever is more. Of "eager": one dequantised block of
        ceil(max(bytes of x, 1 MiB) / (in_features * element_size)) rows of the weight; in backward
        ceil(max(bytes of x, 1 MiB) / (out_features * element_size)) columns, and a copy of the
        output's gradient if that arrives expanded.
    Raises: ValueError on a shape, dtype or device mismatch, or on a scale that requires a gradient.
    Source: Dettmers et al. 2022, arXiv:2208.07339 (constants by row; here the activations keep their dtype); Bengio et
        al. 2013, arXiv:1308.3432 (the straight-through estimator).
    """
    check_dimensions("weight_int8", weight_int8, ["out_features", "in_features"])
    check_dtype("weight_int8", weight_int8, [torch.int8])
    check_floating("x", x)
    check_last_dimension("x", x, weight_int8.shape[1])
    check_shape("scale", scale, weight_int8.shape[:1])
    check_dtype("scale", scale, [torch.float32, torch.float64])
    if bias is not None:
        check_shape("bias", bias, weight_int8.shape[:1])
        check_dtype("bias", bias, [x.dtype])
    if straight_through is not None:
        check_floating("straight_through", straight_through)
        check_shape("straight_through", straight_through, weight_int8.shape)
    check_same_device(x=x, weight_int8=weight_int8, scale=scale, bias=bias, straight_through=straight_through)
    if scale.requires_grad:
        raise ValueError("scale: is a constant of the quantised weight and takes no gradient; detach it")
    chosen = resolve(implementation, x, scale, bias)
    if chosen == "reference":
        return reference(x, weight_int8, scale, bias, straight_through)
    linear = FusedInt8Linear if chosen == "triton" else Int8Linear
    return linear.apply(x, weight_int8, scale, bias, straight_through)  # type: ignore[no-any-return, no-untyped-call]


def quantise_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric INT8 weight and scale for each output channel: scale = max|row| / 127.

    Args:
        weight: (out_features, in_features), floating, finite.
    Returns: weight_int8 (out_features, in_features), int8, values in [-127, 127]; scale (out_features,),
        float32 (float64 for float64). weight_int8 * scale errs by scale / 2 at most; a zero row has scale 1.
    Memory: scratch of one block of rows in float32, about the bytes of weight_int8 (at least 1 MiB).
    Raises: ValueError if the weight is not a floating matrix.
    """
    check_dimensions("weight", weight, ["out_features", "in_features"])
    check_floating("weight", weight)
    with torch.no_grad():
        return quantise_rows(weight)
