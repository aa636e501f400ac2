"""Diagonal linear recurrence h_t = a_t * h_{t-1} + x_t along the sequence."""

from torch import Tensor

from muse_kernels.arguments import (
    check_dimensions,
    check_dtype,
    check_floating,
    check_same_device,
    check_shape,
)
from muse_kernels.diagonal_scan.autograd import DiagonalScan, RunningSum
from muse_kernels.diagonal_scan.fused import FusedScan
from muse_kernels.diagonal_scan.reference import diagonal_scan as reference
from muse_kernels.implementation import Implementation, resolve
from muse_kernels.precision import accumulation_dtype


def diagonal_scan(
    x: Tensor,
    decay: Tensor | None = None,
    *,
    implementation: Implementation = "auto",
) -> Tensor:
    """States h_t = a_t * h_{t-1} + x_t of a causal diagonal recurrence, with h_{-1} = 0.

    Args:
        x: (batch, seq, rank), of any strides.
        decay: a, (batch, seq, rank), of any strides, or (rank,), the same at every step; dtype of x or float32,
            values in (0, 1]. None is a running sum (a = 1). Values above 1 are not refused, but may overflow.
        implementation: "reference", "eager", "triton" or "auto".
    Returns: (batch, seq, rank), dtype of x; accumulates in float32 (float64 for float64).
        The gradient of a float32 decay is formed from h in the dtype of x, and so is as accurate as that.
    Memory: saves decay and the output (Triton: only where the decay has a gradient); the running sum saves nothing.
        Triton: where there are few channels, a long sequence is cut into c <= 512 chunks, and scratch, in forward as
        in backward, is batch * c * rank * 4 bytes, at most 33,792 + 4 * batch * rank; with decay twice that. The
        gradient of a decay (rank,) takes batch * c * rank * 4 bytes more.
        Eager: scratch, in forward as in backward, batch * seq * rank * 4 bytes (8 for float64), with decay twice that.
    Raises: ValueError on a shape, dtype or device mismatch.
    Source: Blelloch 1990; Brent and Kung 1982; Martin and Cundy 2018, arXiv:1709.04057.
    """
    check_dimensions("x", x, ["batch", "seq", "rank"])
    check_floating("x", x)
    if decay is not None:
        check_shape("decay", decay, x.shape[-1:] if decay.dim() == 1 else x.shape)
        check_dtype("decay", decay, [x.dtype, accumulation_dtype(x.dtype)])
    check_same_device(x=x, decay=decay)
    chosen = resolve(implementation, x, decay)
    if chosen == "reference":
        return reference(x, decay)
    if chosen == "triton":
        return FusedScan.apply(x, decay)  # type: ignore[no-any-return, no-untyped-call]
    if decay is None:
        return RunningSum.apply(x)  # type: ignore[no-any-return, no-untyped-call]
    return DiagonalScan.apply(x, decay)  # type: ignore[no-any-return, no-untyped-call]
