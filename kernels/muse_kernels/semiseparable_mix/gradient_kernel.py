"""Triton kernels of the backward: the states around every chunk, and the gradients, chunk by chunk.

Gradients of a chunk take the state before it and the gradient of the state after it. `carry_kernel` walks every
segment twice at once: forwards with the state, and backwards with its gradient. Where there are several segments it
is launched twice: to find what each segment adds, and then, starting from what the others added, to write both
states of every chunk. Gradients of chunks are then independent of each other.
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
    load_state,
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
def carry_kernel(
    q,
    k,
    v,
    log_decay,
    grad,
    initial,
    grad_final,
    states,
    decays,
    around,
    grad_initial,
    seq,
    heads,
    group,
    segments,
    span,
    slots,
    entries,
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
    g_batch,
    g_seq,
    g_head,
    C: tl.constexpr,
    N: tl.constexpr,
    N_PAD: tl.constexpr,
    P: tl.constexpr,
    BLOCK_P: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
    HAS_FINAL: tl.constexpr,
    WRITES: tl.constexpr,
):
    """Carries the state forwards (axis 2 is 0) or its gradient backwards through one segment of one head.

    With WRITES, each chunk's is written, from the true one at the segment's end; else what the segment adds to it.
    """
    batch, segment, head = place(heads, segments)
    first = tl.program_id(1) * BLOCK_P
    row = batch * heads + head
    slot = row * segments + segment
    log_decay += batch * d_batch + head * d_head
    chunks = tl.cdiv(seq, C)
    begin, end = segment * span, min(segment * span + span, chunks)
    state = tl.zeros((BLOCK_P, N_PAD), tl.float32)
    if tl.program_id(2) == 0:
        k += batch * k_batch + head // group * k_head
        v += batch * v_batch + head * v_head
        if WRITES:
            state = state_before(
                initial, states, decays, row, segment, segments, first, N, N_PAD, P, BLOCK_P, HAS_INITIAL
            )
        decayed = tl.zeros((), tl.float64)
        for chunk in range(begin, end):
            if WRITES:
                store_state(around, row * chunks + chunk, first, state, N, N_PAD, P, BLOCK_P)
            start = tl.cast(chunk, tl.int64) * C
            since, total = load_log_decays(log_decay, start, d_seq, seq, C)
            k_tile = load_rows(k, start, k_seq, seq, 0, C, N, N_PAD)
            v_tile = load_rows(v, start, v_seq, seq, first, C, P, BLOCK_P)
            state = next_state(state, k_tile, v_tile, decay_of(total - since), total, OPERAND, PRECISION)
            decayed += total
        if not WRITES:
            store_state(states, slot, first, state, N, N_PAD, P, BLOCK_P)
            tl.store(decays + slot, decay_of(decayed))
    else:
        q += batch * q_batch + head // group * q_head
        grad += batch * g_batch + head * g_head
        if WRITES:
            if HAS_FINAL:
                state = load_state(grad_final, row, first, N, N_PAD, P, BLOCK_P)
            for back in range(segments - 1 - segment):
                later = row * segments + segments - 1 - back
                state *= tl.load(decays + later)
                state += load_state(states, slots + later, first, N, N_PAD, P, BLOCK_P)
        for back in range(end - begin):
            chunk = end - 1 - back
            if WRITES:
                store_state(around, entries + row * chunks + chunk, first, state, N, N_PAD, P, BLOCK_P)
            start = tl.cast(chunk, tl.int64) * C
            since, total = load_log_decays(log_decay, start, d_seq, seq, C)
            q_tile = load_rows(q, start, q_seq, seq, 0, C, N, N_PAD)
            g_tile = load_rows(grad, start, g_seq, seq, first, C, P, BLOCK_P)
            state = next_state(state, q_tile, g_tile, decay_of(since), total, OPERAND, PRECISION)
        if not WRITES:
            store_state(states, slots + slot, first, state, N, N_PAD, P, BLOCK_P)
        elif HAS_INITIAL:  # noqa: SIM102 (decided when compiled, the other when run)
            if segment == 0:
                store_state(grad_initial, row, first, state, N, N_PAD, P, BLOCK_P)


@triton.jit
def gradient_kernel(
    q,
    k,
    v,
    log_decay,
    grad,
    around,
    grad_q,
    grad_k,
    grad_v,
    grad_log,
    seq,
    heads,
    group,
    entries,
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
    g_batch,
    g_seq,
    g_head,
    C: tl.constexpr,
    N: tl.constexpr,
    N_PAD: tl.constexpr,
    P: tl.constexpr,
    BLOCK_P: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of one chunk of one head; pairs of steps are (earlier, later), so that one matrix is turned only."""
    chunks = tl.cdiv(seq, C)
    batch, chunk, head = place(heads, chunks)
    start = tl.cast(chunk, tl.int64) * C
    entry = (batch * heads + head) * chunks + chunk
    v += batch * v_batch + head * v_head
    grad += batch * g_batch + head * g_head
    first_row = batch * seq * heads + head
    since, total = load_log_decays(log_decay + batch * d_batch + head * d_head, start, d_seq, seq, C)
    arriving, leaving = decay_of(since)[:, None], decay_of(total - since)[:, None]
    q_tile = load_rows(q + batch * q_batch + head // group * q_head, start, q_seq, seq, 0, C, N, N_PAD)
    k_tile = load_rows(k + batch * k_batch + head // group * k_head, start, k_seq, seq, 0, C, N, N_PAD)
    decay, correction = pair_decays(since, C, True)
    scores = product(k_tile, tl.trans(q_tile), None, k_tile.dtype, PRECISION) * decay * correction
    scores = rounded(scores, OPERAND)
    slopes = tl.zeros((C, C), tl.float32)
    dq = tl.zeros((C, N_PAD), tl.float32)
    dk = tl.zeros((C, N_PAD), tl.float32)
    passing = tl.zeros((N_PAD,), tl.float32)
    for block in range(tl.cdiv(P, BLOCK_P)):
        first = block * BLOCK_P
        v_tile = load_rows(v, start, v_seq, seq, first, C, P, BLOCK_P)
        g_tile = load_rows(grad, start, g_seq, seq, first, C, P, BLOCK_P)
        before = load_state(around, entry, first, N, N_PAD, P, BLOCK_P)
        after = load_state(around, entries + entry, first, N, N_PAD, P, BLOCK_P)
        passing += tl.sum(before.to(tl.float32) * after.to(tl.float32), 0)
        dv = product(k_tile, tl.trans(after), None, OPERAND, PRECISION) * leaving
        dv = product(scores, g_tile, dv, OPERAND, PRECISION)
        store_rows(grad_v + first_row * P, start, heads * P, seq, first, dv, C, P, BLOCK_P)
        slopes = product(v_tile, tl.trans(g_tile), slopes, v_tile.dtype, PRECISION)
        dq = product(g_tile, before, dq, OPERAND, PRECISION)
        dk = product(v_tile, after, dk, OPERAND, PRECISION)
    # A step's decay scales whatever passes from before it to it or beyond: pairs within the chunk (sums over later
    # steps less sums over earlier ones; a step with itself would cancel, but not exactly), what arrives from the
    # state before, what leaves for the state after, and what passes through.
    index = tl.arange(0, C)
    flow = tl.where(index[:, None] != index[None, :], scores * slopes, 0.0)
    change = tl.sum(flow, 0).to(tl.float64) - tl.sum(flow, 1).to(tl.float64)
    dq *= arriving
    dk *= leaving
    left = tl.sum(k_tile * dk, 1).to(tl.float64)
    change += tl.sum(q_tile * dq, 1).to(tl.float64) - left
    through = tl.sum(passing, 0) * decay_of(total) + tl.sum(left + change, 0) - (tl.cumsum(change, 0) - change)
    rows = start + index
    tl.store(
        grad_log + first_row + rows * heads, rounded(through.to(tl.float32), grad_log.dtype.element_ty), mask=rows < seq
    )
    slopes = rounded(slopes * decay * correction, OPERAND)
    dk = product(slopes, q_tile, dk, OPERAND, PRECISION)
    store_rows(grad_k + first_row * N, start, heads * N, seq, 0, dk, C, N, N_PAD)
    dq = product(tl.trans(slopes), k_tile, dq, OPERAND, PRECISION)
    store_rows(grad_q + first_row * N, start, heads * N, seq, 0, dq, C, N, N_PAD)


@triton.jit
def group_kernel(parts, grad_q, grad_k, size, width, group, BLOCK: tl.constexpr):
    """Sums gradients of the heads that share a query or key, in the order of the heads; parts: (2, size * group)."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    parts += tl.program_id(1).to(tl.int64) * size * group
    source = offset // width * width * group + offset % width
    total = tl.zeros((BLOCK,), tl.float32)
    for member in range(group):
        total += tl.load(parts + source + member * width, mask=offset < size, other=0.0)
    if tl.program_id(1) == 0:
        tl.store(grad_q + offset, rounded(total, grad_q.dtype.element_ty), mask=offset < size)
    else:
        tl.store(grad_k + offset, rounded(total, grad_k.dtype.element_ty), mask=offset < size)


def mix_gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    initial: Tensor | None,
    grad: Tensor,
    grad_final: Tensor | None,
    scratch: tuple[Tensor, Tensor, Tensor],
    heads_grad_q: Tensor,
    heads_grad_k: Tensor,
    grad_v: Tensor,
    grad_log: Tensor,
    grad_initial: Tensor | None,
    cut: Plan,
) -> None:
    """Fills the gradients, those of q and k for each head of v; scratch: states and decays of segments, of chunks."""
    batch, seq, heads, value_dim = v.shape
    slots, entries = batch * heads * cut.segments, batch * heads * cut.chunks
    outer = (tensor.stride()[:3] for tensor in (q, k, v, log_decay, grad))
    strides = [stride for strides in outer for stride in strides]
    tile = tile_options(q, v, cut)
    grid = (slots, triton.cdiv(value_dim, tile["BLOCK_P"]), 2)
    with torch.cuda.device_of(v):
        for writes in (False, True)[cut.segments == 1 :]:
            carry_kernel[grid](
                q, k, v, log_decay, grad, initial, grad_final, *scratch, grad_initial,
                seq, heads, heads // q.shape[2], cut.segments, cut.span, slots, entries, *strides, **tile,
                HAS_INITIAL=initial is not None, HAS_FINAL=grad_final is not None, WRITES=writes,
            )  # fmt: skip
        # Its blocks share no state, and wider ones would spill; few of them are left to prefetch.
        tile |= {"BLOCK_P": min(64, tile["BLOCK_P"]), "num_stages": 1}
        gradient_kernel[(entries,)](
            q, k, v, log_decay, grad, scratch[2], heads_grad_q, heads_grad_k, grad_v, grad_log,
            seq, heads, heads // q.shape[2], entries, *strides, **tile,
        )  # fmt: skip


def sum_groups(parts: Tensor, grad_q: Tensor, grad_k: Tensor) -> None:
    """Sums parts (2, batch, seq, heads, N) over the heads that share a query or key."""
    size, block = grad_q.numel(), 1024
    group = parts.shape[3] // grad_q.shape[2]
    with torch.cuda.device_of(parts):
        group_kernel[(triton.cdiv(size, block), 2)](
            parts, grad_q, grad_k, size, grad_q.shape[-1], group, BLOCK=block, num_warps=4
        )
