"""One step of the recurrence, for decoding: the state is updated in place."""

import torch
from torch import Tensor

from muse_kernels.arguments import (
    check_dimensions,
    check_dtype,
    check_floating,
    check_same_device,
    check_shape,
)
from muse_kernels.implementation import Implementation, launches, resolve
from muse_kernels.precision import accumulation_dtype
from muse_kernels.semiseparable_mix.fused import rows


@torch.no_grad()
def semiseparable_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    state: Tensor,
    *,
    implementation: Implementation = "auto",
) -> Tensor:
    """One token of `semiseparable_mix`: state = exp(log_decay) state + k v^T, in place; returns q^T state.

    Args:
        q: (batch, heads_qk, N), where heads_qk divides heads.
        k: (batch, heads_qk, N), dtype of q.
        v: (batch, heads, P), dtype of q.
        log_decay: (batch, heads), dtype of q or float32, at most 0.
        state: (batch, heads, N, P), float32 (float64 for float64), such as the mix's final state; updated.
        implementation: "reference" (also "eager"), "triton" (one launch) or "auto".
    Returns: (batch, heads, P), dtype of v. Records no gradient.
    Memory: "triton" takes no scratch.
    Raises: ValueError on a shape, dtype or device mismatch.
    """
    check_dimensions("v", v, ["batch", "heads", "P"])
    check_dimensions("q", q, ["batch", "heads_qk", "N"])
    check_floating("v", v)
    batch, heads, value_dim = v.shape
    check_shared_heads(q, heads)
    check_shape("q", q, (batch, *q.shape[1:]))
    check_shape("k", k, q.shape)
    for name, tensor in (("q", q), ("k", k)):
        check_dtype(name, tensor, [v.dtype])
    check_shape("log_decay", log_decay, (batch, heads))
    check_dtype("log_decay", log_decay, [v.dtype, accumulation_dtype(v.dtype)])
    check_shape("state", state, (batch, heads, q.shape[-1], value_dim))
    check_dtype("state", state, [accumulation_dtype(v.dtype)])
    check_same_device(v=v, q=q, k=k, log_decay=log_decay, state=state)
    if resolve(implementation, q, k, v, log_decay, state) == "triton":
        o = v.new_empty(v.shape)
        if launches(o):
            from muse_kernels.semiseparable_mix.step_kernel import step

            step(rows(q), rows(k), rows(v), log_decay, state, o)
        return o
    repeats = heads // q.shape[1]
    q, k = (tensor.to(state.dtype).repeat_interleave(repeats, 1) for tensor in (q, k))
    state.mul_(log_decay.to(state.dtype).exp()[..., None, None]).addcmul_(k.unsqueeze(-1), v.unsqueeze(-2))
    return (q.unsqueeze(-2) @ state).squeeze(-2).to(v.dtype)


def check_shared_heads(q: Tensor, heads: int) -> None:
    """Every query head serves equally many value heads, which stand side by side."""
    shared = q.shape[-2]
    if shared < 1 or heads < 1 or heads % shared:
        raise ValueError(f"q: its {shared} heads must divide the {heads} heads of v")
