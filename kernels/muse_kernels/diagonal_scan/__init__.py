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
        x: (batch, seq, rank).
        decay: a, (batch, seq, rank), dtype of x or float32, values in (0, 1]; expanded dimensions are
            welcome. None is a running sum (a = 1). Values above 1 are not refused, but may overflow.
        implementation: "reference", "eager", or "auto" (eager).
    Returns: (batch, seq, rank), dtype of x; accumulates in float32 (float64 for float64).
        The gradient of a float32 decay is formed from h in the dtype of x, and so is as accurate as that.
    Memory: saves decay and the output; the running sum saves nothing. Scratch, in forward as in backward:
        batch * seq * rank * 4 bytes (8 for float64), with decay twice that.
    Raises: ValueError on a shape, dtype or device mismatch.
    Source: Blelloch 1990; Brent and Kung 1982; Martin and Cundy 2018, arXiv:1709.04057.
    """
    check_dimensions("x", x, ["batch", "seq", "rank"])
    check_floating("x", x)
    if decay is not None:
        check_shape("decay", decay, x.shape)
        check_dtype("decay", decay, [x.dtype, accumulation_dtype(x.dtype)])
    check_same_device(x=x, decay=decay)
    if resolve(implementation) == "reference":
        return reference(x, decay)
    if decay is None:
        return RunningSum.apply(x)  # type: ignore[no-any-return, no-untyped-call]
    return DiagonalScan.apply(x, decay)  # type: ignore[no-any-return, no-untyped-call]
