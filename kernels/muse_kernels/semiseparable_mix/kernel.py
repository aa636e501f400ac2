"""Triton kernels of the forward: the state carried through segments of chunks, and the outputs.

One program walks the chunks of one segment of one head with the state in registers, so that states go to memory once
a segment only. Where there are several segments, a first kernel finds what each adds to the state, and each program
of the second starts by summing what came before its own: two launches, or one. States are held transposed, (P, N):
matrix instructions take 64 rows, and N may be 16.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from muse_kernels.products import rounded
from muse_kernels.semiseparable_mix.plan import Plan
from muse_kernels.semiseparable_mix.tiles import (
    decay_of,
    load_log_decays,
    load_rows,
    next_state,
    pair_decays,
    place,
    product,
    state_before,
    store_rows,
    store_state,
    tile_options,
)


@triton.jit
def segment_kernel(
    k,
    v,
    log_decay,
    states,
    decays,
    seq,
    heads,
    group,
    segments,
    span,
    k_batch,
    k_seq,
    k_head,
    v_batch,
    v_seq,
    v_head,
    d_batch,
    d_seq,
    d_head,
    C: tl.constexpr,
    N: tl.constexpr,
    N_PAD: tl.constexpr,
    P: tl.constexpr,
    BLOCK_P: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """What each segment but the last adds to the state, and what it leaves of the one before."""
    batch, segment, head = place(heads, segments - 1)
    first = tl.program_id(1) * BLOCK_P
    k += batch * k_batch + head // group * k_head
    v += batch * v_batch + head * v_head
    log_decay += batch * d_batch + head * d_head
    slot = (batch * heads + head) * segments + segment
    state = tl.zeros((BLOCK_P, N_PAD), tl.float32)
    decayed = tl.zeros((), tl.float64)
    for chunk in range(segment * span, segment * span + span):
        start = tl.cast(chunk, tl.int64) * C
        since, total = load_log_decays(log_decay, start, d_seq, seq, C)
        k_tile = load_rows(k, start, k_seq, seq, 0, C, N, N_PAD)
        v_tile = load_rows(v, start, v_seq, seq, first, C, P, BLOCK_P)
        state = next_state(state, k_tile, v_tile, decay_of(total - since), total, OPERAND, PRECISION)
        decayed += total
    store_state(states, slot, first, state, N, N_PAD, P, BLOCK_P)
    tl.store(decays + slot, decay_of(decayed))


@triton.jit
def output_kernel(
    q,
    k,
    v,
    log_decay,
    initial,
    states,
    decays,
    o,
    final,
    seq,
    heads,
    group,
    segments,
    span,
    q_batch,
    q_seq,
    q_head,
    k_batch,
    k_seq,
    k_head,
    v_batch,
    v_seq,
    v_head,
    d_batch,
    d_seq,
    d_head,
    C: tl.constexpr,
    N: tl.constexpr,
    N_PAD: tl.constexpr,
    P: tl.constexpr,
    BLOCK_P: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
    WANTS_FINAL: tl.constexpr,
):
    """Outputs of one segment of one head, and the state after the last one."""
    batch, segment, head = place(heads, segments)
    row = batch * heads + head
    first = tl.program_id(1) * BLOCK_P
    q += batch * q_batch + head // group * q_head
    k += batch * k_batch + head // group * k_head
    v += batch * v_batch + head * v_head
    log_decay += batch * d_batch + head * d_head
    o += (batch * seq * heads + head) * P
    state = state_before(initial, states, decays, row, segment, segments, first, N, N_PAD, P, BLOCK_P, HAS_INITIAL)
    for chunk in range(segment * span, min(segment * span + span, tl.cdiv(seq, C))):
        start = tl.cast(chunk, tl.int64) * C
        since, total = load_log_decays(log_decay, start, d_seq, seq, C)
        q_tile = load_rows(q, start, q_seq, seq, 0, C, N, N_PAD)
        k_tile = load_rows(k, start, k_seq, seq, 0, C, N, N_PAD)
        v_tile = load_rows(v, start, v_seq, seq, first, C, P, BLOCK_P)
        decay, correction = pair_decays(since, C, False)
        scores = product(q_tile, tl.trans(k_tile), None, q_tile.dtype, PRECISION) * decay * correction
        out = product(q_tile, tl.trans(rounded(state, OPERAND)), None, OPERAND, PRECISION) * decay_of(since)[:, None]
        out = product(scores, v_tile, out, OPERAND, PRECISION)
        store_rows(o, start, heads * P, seq, first, out, C, P, BLOCK_P)
        state = next_state(state, k_tile, v_tile, decay_of(total - since), total, OPERAND, PRECISION)
    if WANTS_FINAL:  # noqa: SIM102 (decided when compiled, the other when run)
        if segment == segments - 1:
            store_state(final, row, first, state, N, N_PAD, P, BLOCK_P)


def mix(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    initial: Tensor | None,
    states: Tensor,
    decays: Tensor,
    o: Tensor,
    final: Tensor | None,
    cut: Plan,
) -> None:
    """Fills o and final; states and decays hold one entry for each segment of each head."""
    batch, seq, heads, value_dim = v.shape
    sizes = (seq, heads, heads // q.shape[2], cut.segments, cut.span)
    outer = (*k.stride()[:3], *v.stride()[:3], *log_decay.stride())
    tile = tile_options(q, v, cut)
    blocks = triton.cdiv(value_dim, tile["BLOCK_P"])
    with torch.cuda.device_of(v):
        if cut.segments > 1:
            grid = (batch * heads * (cut.segments - 1), blocks)
            segment_kernel[grid](k, v, log_decay, states, decays, *sizes, *outer, **tile)
        output_kernel[(batch * heads * cut.segments, blocks)](
            q, k, v, log_decay, initial, states, decays, o, final, *sizes, *q.stride()[:3], *outer, **tile,
            HAS_INITIAL=initial is not None, WANTS_FINAL=final is not None,
        )  # fmt: skip
