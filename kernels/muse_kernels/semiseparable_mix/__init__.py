"""Matrix-state recurrence S_t = a_t S_{t-1} + k_t v_t^T, read as o_t = q_t^T S_t."""

from torch import Tensor

from muse_kernels.arguments import (
    check_dimensions,
    check_dtype,
    check_floating,
    check_positive,
    check_same_device,
    check_shape,
)
from muse_kernels.implementation import Implementation, resolve
from muse_kernels.precision import accumulation_dtype
from muse_kernels.semiseparable_mix.autograd import SemiseparableMix
from muse_kernels.semiseparable_mix.fused import FusedSemiseparableMix
from muse_kernels.semiseparable_mix.recurrent import check_shared_heads, semiseparable_step
from muse_kernels.semiseparable_mix.reference import semiseparable_mix as reference

__all__ = ["semiseparable_mix", "semiseparable_step"]

WIDEST = 128  # N and P of a kernel: the state stays in registers


def semiseparable_mix(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    *,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    implementation: Implementation = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """o_t = q_t^T S_t with the matrix state S_t = exp(log_decay_t) S_{t-1} + k_t v_t^T of each head.

    It is causal linear attention with a scalar decay, and multiplies v by a semiseparable matrix. A gate
    o * silu(gate) is left to the caller: the kernel would save no tensor, since a gate's gradient needs o.

    Args:
        q: (batch, seq, heads_qk, N), where heads_qk divides heads: each serves heads / heads_qk heads of v.
        k: (batch, seq, heads_qk, N), dtype of q.
        v: (batch, seq, heads, P), dtype of q.
        log_decay: (batch, seq, heads), dtype of v or float32, at most 0; -inf forgets all before.
        initial_state: S before the first step, (batch, heads, N, P), float32 (float64 for float64); None is zero.
        return_final_state: also returns S after the last step, which `semiseparable_step` continues.
        implementation: "reference", "eager", "triton" (N and P up to 128) or "auto".
    Returns: o, (batch, seq, heads, P), dtype of v; or the pair (o, final state). Sums are held in float32 (float64
        for float64); kernels round scores and states to bfloat16 (for float16: to TF32) before they multiply them,
        so that float32 results of bfloat16 inputs, such as the gradient of a float32 log_decay, are as accurate
        as that.
    Memory: saves its inputs. Scratch of "triton", with rows = batch * heads, chunks = ceil(seq / 64) (32 for
        float32) and segments = min(ceil(264 / rows), ceil(chunks / 4)), but 1 where chunks <= 8: forward
        rows * segments * N * P * 4 bytes, none for one segment; backward twice that and 2 * rows * chunks * N * P
        elements of v's size, 4 bytes each for float16, and where heads share a query batch * seq * heads * N * 8.
        Inputs and gradients whose last dimension is not consecutive are copied. Scratch of "eager": rows * N * P
        * 4 bytes for each chunk of 64 in backward, and in both some rows * 64 * max(64, N, P) * 8.
    Raises: ValueError on a shape, dtype or device mismatch.
    Source: Dao and Gu 2024, arXiv:2405.21060 (state-space duality).
    """
    _check(q, k, v, log_decay, initial_state)
    chosen = resolve(implementation, q, k, v, log_decay, initial_state)
    if chosen == "triton" and max(q.shape[-1], v.shape[-1]) > WIDEST:
        raise ValueError(
            f"implementation: the Triton kernel takes N and P up to {WIDEST}, got {q.shape[-1]} and {v.shape[-1]};"
            " choose eager"
        )
    if chosen == "reference":
        o, final = reference(q, k, v, log_decay, initial_state)
    else:
        function = FusedSemiseparableMix if chosen == "triton" else SemiseparableMix
        o, final = function.apply(q, k, v, log_decay, initial_state, return_final_state)  # type: ignore[no-untyped-call]
    return (o, final) if return_final_state else o


def _check(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, initial_state: Tensor | None) -> None:
    check_dimensions("v", v, ["batch", "seq", "heads", "P"])
    check_dimensions("q", q, ["batch", "seq", "heads_qk", "N"])
    check_floating("v", v)
    batch, seq, heads, value_dim = v.shape
    check_positive("P", value_dim)
    check_positive("N", q.shape[-1])
    check_shared_heads(q, heads)
    check_shape("q", q, (batch, seq, *q.shape[2:]))
    check_shape("k", k, q.shape)
    for name, tensor in (("q", q), ("k", k)):
        check_dtype(name, tensor, [v.dtype])
    check_shape("log_decay", log_decay, (batch, seq, heads))
    check_dtype("log_decay", log_decay, [v.dtype, accumulation_dtype(v.dtype)])
    if initial_state is not None:
        check_shape("initial_state", initial_state, (batch, heads, q.shape[-1], value_dim))
        check_dtype("initial_state", initial_state, [accumulation_dtype(v.dtype)])
    check_same_device(v=v, q=q, k=k, log_decay=log_decay, initial_state=initial_state)
