"""Depthwise causal convolution along the sequence, of a few taps, optionally with a second tensor added."""

from torch import Tensor

from muse_kernels.arguments import (
    check_dimensions,
    check_dtype,
    check_floating,
    check_positive,
    check_same_device,
    check_shape,
)
from muse_kernels.causal_convolution.autograd import CausalConvolution
from muse_kernels.causal_convolution.fused import FusedCausalConvolution
from muse_kernels.causal_convolution.reference import causal_convolution as reference
from muse_kernels.implementation import Implementation, resolve
from muse_kernels.precision import accumulation_dtype


def causal_convolution(
    x: Tensor,
    weight: Tensor,
    before: Tensor | None = None,
    *,
    add: Tensor | None = None,
    implementation: Implementation = "auto",
) -> Tensor:
    """y_t = sum over k of weight_k * x_{t - (width - 1) + k}, plus add_t: token t sees itself and width - 1 before it.

    Args:
        x: (batch, seq, d_model), of any strides.
        weight: (width, d_model), dtype of x or float32; its last row weighs the current token. For a few taps:
            every one is unrolled.
        before: the tokens ahead of x, (batch, width - 1, d_model), dtype of x; zeros when None.
        add: (batch, seq, d_model), any floating dtype; added in the same pass, which saves a tensor of that size.
        implementation: "reference", "eager", "triton" or "auto".
    Returns: (batch, seq, d_model), dtype of x; summed in float32 (float64 for float64), by eager in the dtype of x.
    Memory: saves x, weight and before.
        Triton: scratch in backward of at most max(batch, 64) * width * d_model * 4 bytes.
        Eager: scratch in backward of batch * seq * d_model elements.
        Either: the gradient of an `add` of another dtype than x is a copy.
    Raises: ValueError on a shape, dtype or device mismatch.
    """
    _check(x, weight, before, add)
    chosen = resolve(implementation, x, weight, before, add)
    if chosen == "reference":
        return reference(x, weight, before, add)
    function = CausalConvolution if chosen == "eager" else FusedCausalConvolution
    return function.apply(x, weight, before, add)  # type: ignore[no-any-return, no-untyped-call]


def _check(x: Tensor, weight: Tensor, before: Tensor | None, add: Tensor | None) -> None:
    check_dimensions("x", x, ["batch", "seq", "d_model"])
    check_dimensions("weight", weight, ["width", "d_model"])
    check_positive("width", weight.shape[0])
    check_floating("x", x)
    check_shape("weight", weight, (weight.shape[0], x.shape[2]))
    check_dtype("weight", weight, [x.dtype, accumulation_dtype(x.dtype)])
    if before is not None:
        check_shape("before", before, (x.shape[0], weight.shape[0] - 1, x.shape[2]))
        check_dtype("before", before, [x.dtype])
    if add is not None:
        check_shape("add", add, x.shape)
        check_floating("add", add)
    check_same_device(x=x, weight=weight, before=before, add=add)
