"""Root-mean-square normalisation, optionally fused with the residual sum before it."""

from typing import overload

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
from muse_kernels.precision import accumulation_dtype
from muse_kernels.rms_norm.autograd import ResidualRMSNorm, RMSNorm
from muse_kernels.rms_norm.fused import FusedResidualRMSNorm, FusedRMSNorm
from muse_kernels.rms_norm.reference import rms_norm as reference


@overload
def rms_norm(
    x: Tensor, weight: Tensor, *, eps: float = ..., residual: None = ..., implementation: Implementation = ...
) -> Tensor: ...


@overload
def rms_norm(
    x: Tensor, weight: Tensor, *, eps: float = ..., residual: Tensor, implementation: Implementation = ...
) -> tuple[Tensor, Tensor]: ...


def rms_norm(
    x: Tensor,
    weight: Tensor,
    *,
    eps: float = 1e-6,
    residual: Tensor | None = None,
    implementation: Implementation = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Rows scaled to unit root mean square: x / sqrt(mean(x^2) + eps) * weight.

    Args:
        x: (*, d_model).
        weight: (d_model,), dtype of x or float32.
        eps: added to the mean square.
        residual: (*, d_model), dtype of x; added to x first.
        implementation: "reference", "eager", "triton", or "auto" (see `resolve`).
    Returns: (*, d_model), dtype of x; with a residual the pair (norm of x + residual, x + residual).
        Statistics and the weight's gradient are held in float32 (float64 for float64).
    Memory: saves the input (with a residual: the sum, which is an output) and rows * 4 bytes. Scratch of
        "triton": in backward min(264, rows) * d_model * 4 at most; of "eager": n float32 copies of
        ceil(max(bytes of x, 1 MiB) / (n * d_model * 4)) rows, n = 1 in forward, 3 in backward. An operand, or
        a gradient, whose leading dimensions no single stride covers is copied.
    Raises: ValueError on a shape, dtype or device mismatch.
    Source: Zhang and Sennrich 2019, arXiv:1910.07467.
    """
    check_dimensions("weight", weight, ["d_model"])
    check_floating("x", x)
    check_last_dimension("x", x, weight.shape[0])
    check_dtype("weight", weight, [x.dtype, accumulation_dtype(x.dtype)])
    if residual is not None:
        check_shape("residual", residual, x.shape)
        check_dtype("residual", residual, [x.dtype])
    check_same_device(x=x, weight=weight, residual=residual)
    chosen = resolve(implementation, x, weight, residual)
    if chosen == "reference":
        total = x if residual is None else x + residual
        y = reference(total, weight, eps)
        return y if residual is None else (y, total)
    if residual is None:
        norm = FusedRMSNorm if chosen == "triton" else RMSNorm
        return norm.apply(x, weight, eps)  # type: ignore[no-any-return, no-untyped-call]
    pair = FusedResidualRMSNorm if chosen == "triton" else ResidualRMSNorm
    return pair.apply(x, residual, weight, eps)  # type: ignore[no-any-return, no-untyped-call]
