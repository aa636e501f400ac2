"""The normalised, gated output of a mixer's heads, with a skip from their values."""

from torch import Tensor

from muse_kernels.arguments import check_dimensions, check_dtype, check_floating, check_same_device, check_shape
from muse_kernels.gated_rms_norm.fused import FusedGatedRMSNorm
from muse_kernels.gated_rms_norm.reference import gated_rms_norm as reference
from muse_kernels.implementation import Implementation, resolve

WIDEST = 16_384


def gated_rms_norm(
    x: Tensor,
    v: Tensor,
    skip: Tensor,
    gate: Tensor,
    weight: Tensor,
    *,
    eps: float = 1e-6,
    implementation: Implementation = "auto",
) -> Tensor:
    """rms_norm(x + skip v) * weight * silu(gate), over all heads of a token together.

    Args:
        x, v: (batch, seq, heads, P), of one dtype; the last two dimensions lie together in memory, or are copied.
        skip: (heads,), dtype of x.
        gate: (batch, seq, heads * P), dtype of x; its last dimension lies together, or it is copied.
        weight: (heads * P,), dtype of x.
        eps: added to the mean square.
        implementation: "reference" (also "eager"), "triton" (up to 16,384 wide) or "auto".
    Returns: (batch, seq, heads * P), dtype of x; computed in float32 (float64 for float64).
    Memory: "triton" saves its inputs. Scratch in backward: min(264, ceil(tokens / 8)) * 2 * width * 4 bytes.
    Raises: ValueError on a shape, dtype or device mismatch.
    Source: the norm of Dao and Gu 2024, arXiv:2405.21060, with the gate outside of it.
    """
    check_floating("x", x)
    check_dimensions("x", x, ["batch", "seq", "heads", "P"])
    width = x.shape[2] * x.shape[3]
    check_shape("v", v, x.shape)
    check_shape("skip", skip, x.shape[2:3])
    check_shape("gate", gate, (*x.shape[:2], width))
    check_shape("weight", weight, (width,))
    for name, tensor in (("v", v), ("skip", skip), ("gate", gate), ("weight", weight)):
        check_dtype(name, tensor, [x.dtype])
    check_same_device(x=x, v=v, skip=skip, gate=gate, weight=weight)
    chosen = resolve(implementation, x, v, skip, gate, weight)
    if chosen != "triton" or (implementation == "auto" and width > WIDEST):
        return reference(x, v, skip, gate, weight, eps)
    if width > WIDEST:
        raise ValueError(f"implementation: the Triton kernel takes widths up to {WIDEST}, got {width}; choose eager")
    return FusedGatedRMSNorm.apply(x, v, skip, gate, weight, eps)  # type: ignore[no-any-return, no-untyped-call]
