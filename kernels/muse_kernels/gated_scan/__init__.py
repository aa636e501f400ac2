"""Gated diagonal scan of the AR-SSM: h = scan(u * gate), then h * (v * gate), with gate = sigmoid(scores)."""

from typing import Literal, overload

from torch import Tensor

from muse_kernels.arguments import (
    check_dimensions,
    check_dtype,
    check_floating,
    check_same_device,
    check_shape,
)
from muse_kernels.gated_scan.autograd import GatedScan
from muse_kernels.gated_scan.fused import FusedGatedScan
from muse_kernels.gated_scan.reference import gated_scan as reference
from muse_kernels.implementation import Implementation, resolve
from muse_kernels.precision import accumulation_dtype


@overload
def gated_scan(
    u: Tensor,
    v: Tensor,
    scores: Tensor,
    decay: Tensor | None = ...,
    *,
    initial: Tensor | None = ...,
    hard: bool = ...,
    return_state: Literal[False] = ...,
    implementation: Implementation = ...,
) -> Tensor: ...


@overload
def gated_scan(
    u: Tensor,
    v: Tensor,
    scores: Tensor,
    decay: Tensor | None = ...,
    *,
    initial: Tensor | None = ...,
    hard: bool = ...,
    return_state: Literal[True],
    implementation: Implementation = ...,
) -> tuple[Tensor, Tensor]: ...


def gated_scan(
    u: Tensor,
    v: Tensor,
    scores: Tensor,
    decay: Tensor | None = None,
    *,
    initial: Tensor | None = None,
    hard: bool = False,
    return_state: bool = False,
    implementation: Implementation = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """h_t * v_t * gate_t, where h_t = a_t * h_{t-1} + u_t * gate_t and gate = sigmoid(scores).

    Args:
        u, v, scores: (batch, seq, rank), of one dtype and any strides.
        decay: a, as in `diagonal_scan`: (batch, seq, rank) or (rank,), dtype of u or float32; None is a running sum.
        initial: h_{-1}, (batch, rank), dtype of u or float32; None is zeros.
        hard: gates are 1 where the score is positive, else 0, with the gradients of soft ones (straight-through).
        return_state: return h after the last step as well.
        implementation: "reference", "eager", "triton" or "auto".
    Returns: (batch, seq, rank), dtype of u; with return_state also the state, (batch, rank) in float32 (float64 for
        float64), in which the whole is computed.
    Memory: saves its inputs. Where there are few channels, Triton cuts a long sequence into c <= 512 chunks, and saves
        their states, batch * c * rank * 4 bytes, at most 33,792 + 4 * batch * rank; with decay twice that.
        Backward takes the same again as scratch, and for the gradient of a decay batch * seq * rank * 4 bytes more,
        and another batch * c * rank * 4 where the decay is (rank,).
        Eager: scratch of up to 4 times batch * seq * rank * 4 bytes in forward, 9 times in backward (8 for float64).
    Raises: ValueError on a shape, dtype or device mismatch.
    """
    _check(u, v, scores, decay, initial)
    chosen = resolve(implementation, u, decay, initial)
    if chosen == "reference":
        pair = reference(u, v, scores, decay, initial, hard)
    elif chosen == "eager":
        pair = GatedScan.apply(u, v, scores, decay, initial, hard)  # type: ignore[no-untyped-call]
    else:
        pair = FusedGatedScan.apply(u, v, scores, decay, initial, hard)  # type: ignore[no-untyped-call]
    return pair if return_state else pair[0]


def _check(u: Tensor, v: Tensor, scores: Tensor, decay: Tensor | None, initial: Tensor | None) -> None:
    check_dimensions("u", u, ["batch", "seq", "rank"])
    check_floating("u", u)
    for name, tensor in (("v", v), ("scores", scores)):
        check_shape(name, tensor, u.shape)
        check_dtype(name, tensor, [u.dtype])
    allowed = [u.dtype, accumulation_dtype(u.dtype)]
    if decay is not None:
        check_shape("decay", decay, u.shape[-1:] if decay.dim() == 1 else u.shape)
        check_dtype("decay", decay, allowed)
    if initial is not None:
        check_shape("initial", initial, (u.shape[0], u.shape[2]))
        check_dtype("initial", initial, allowed)
    check_same_device(u=u, v=v, scores=scores, decay=decay, initial=initial)
