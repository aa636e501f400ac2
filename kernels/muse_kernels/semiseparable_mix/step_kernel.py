"""Triton kernel of one step: each program updates the state of one head in place and reads it."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def step_kernel(
    q,
    k,
    v,
    log_decay,
    state,
    o,
    heads,
    group,
    q_batch,
    q_head,
    k_batch,
    k_head,
    v_batch,
    v_head,
    d_batch,
    d_head,
    s_batch,
    s_head,
    s_row,
    s_column,
    N: tl.constexpr,
    N_PAD: tl.constexpr,
    P: tl.constexpr,
    P_PAD: tl.constexpr,
):
    program = tl.program_id(0)
    batch, head = (program // heads).to(tl.int64), program % heads
    n, p = tl.arange(0, N_PAD), tl.arange(0, P_PAD)
    q_row = tl.load(q + batch * q_batch + head // group * q_head + n, mask=n < N, other=0.0).to(tl.float32)
    k_row = tl.load(k + batch * k_batch + head // group * k_head + n, mask=n < N, other=0.0).to(tl.float32)
    v_row = tl.load(v + batch * v_batch + head * v_head + p, mask=p < P, other=0.0).to(tl.float32)
    decay = tl.exp(tl.load(log_decay + batch * d_batch + head * d_head).to(tl.float32))
    entries = state + batch * s_batch + head * s_head + n[:, None] * s_row + p[None, :] * s_column
    mask = (n < N)[:, None] & (p < P)[None, :]
    updated = decay * tl.load(entries, mask=mask, other=0.0) + k_row[:, None] * v_row[None, :]
    tl.store(entries, updated, mask=mask)
    out = tl.sum(q_row[:, None] * updated, 0)
    tl.store(o + program.to(tl.int64) * P + p, out.to(o.dtype.element_ty), mask=p < P)


def step(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor, o: Tensor) -> None:
    """Updates the state and fills o; the last dimension of q, k and v is consecutive."""
    (batch, heads, p), n = v.shape, q.shape[-1]
    strides = [stride for tensor in (q, k, v, log_decay) for stride in tensor.stride()[:2]] + list(state.stride())
    with torch.cuda.device_of(v):
        step_kernel[(batch * heads,)](
            q, k, v, log_decay, state, o, heads, heads // q.shape[1], *strides,
            N=n, N_PAD=triton.next_power_of_2(n), P=p, P_PAD=triton.next_power_of_2(p), num_warps=4,
        )  # fmt: skip
