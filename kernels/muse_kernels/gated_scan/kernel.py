"""Triton kernels of the gated scan: final states of chunks, the scan between its gates."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from muse_kernels.diagonal_scan.kernel import decay_arguments, tile_options
from muse_kernels.diagonal_scan.plan import Plan
from muse_kernels.diagonal_scan.tiles import (
    fold_chunks,
    load_decay_row,
    load_decays,
    load_state,
    load_tile,
    locate,
    scan_tile,
    store_chunk_state,
    tile_at,
    wide,
)
from muse_kernels.products import rounded


@triton.jit
def gate_of(score, HARD: tl.constexpr):
    """The gate, and its slope, which is the soft one even where the gate is hard."""
    soft = tl.sigmoid(score)
    gate = tl.where(score > 0, 1.0, 0.0) if HARD else soft
    return gate, soft * (1 - soft)


@triton.jit
def gated(xs, scores, HARD: tl.constexpr, S: tl.constexpr):
    """The tile times its gates."""
    products = ()
    for s in tl.static_range(S):
        gate, _ = gate_of(scores[s], HARD)
        products += (xs[s] * gate,)
    return products


@triton.jit
def gated_chunk_states_kernel(
    u,
    scores,
    decay,
    states,
    seq,
    rank,
    chunk_steps,
    chunks,
    ub,
    ut,
    ur,
    sb,
    st,
    sr,
    ab,
    at,
    ar,
    DECAY: tl.constexpr,
    HARD: tl.constexpr,
    C: tl.constexpr,
    S: tl.constexpr,
    R: tl.constexpr,
):
    """The state that each chunk ends with if it begins with zero."""
    row, chunk, channel, first, size = locate(seq, rank, chunk_steps, chunks, R)
    inside = channel < rank
    ut = wide(ut)
    st = wide(st)
    at = wide(at)
    decay += row * ab + first * at
    u_at = tile_at(u + row * ub + first * ut, ut, channel, ur, C, S)
    scores_at = tile_at(scores + row * sb + first * st, st, channel, sr, C, S)
    decay_at = tile_at(decay, at, channel, ar, C, S)
    decay_row = load_decay_row(decay, channel, ar, inside, DECAY)
    state = tl.zeros((R,), tl.float32)
    through = tl.full((R,), 1.0, tl.float32)
    for start in range(0, size, C * S):
        left = size - start
        us = load_tile(u_at, ut, left, inside, 0.0, S)
        xs = gated(us, load_tile(scores_at, st, left, inside, 0.0, S), HARD, S)
        decays = load_decays(decay_at, at, decay_row, left, inside, DECAY, S)
        _, _, _, _, state, tile_through = scan_tile(xs, decays, state, False, S)
        through *= tile_through
        u_at += C * S * ut
        scores_at += C * S * st
        decay_at += C * S * at
    store_chunk_state(states, row, chunk, chunks, rank, channel, inside, state, through, DECAY)


@triton.jit
def gated_scan_kernel(
    u,
    v,
    scores,
    decay,
    initial,
    out,
    ending,
    states,
    seq,
    rank,
    chunk_steps,
    chunks,
    ub,
    ut,
    ur,
    vb,
    vt,
    vr,
    sb,
    st,
    sr,
    ab,
    at,
    ar,
    DECAY: tl.constexpr,
    HARD: tl.constexpr,
    INITIAL: tl.constexpr,
    SPLIT: tl.constexpr,
    C: tl.constexpr,
    S: tl.constexpr,
    R: tl.constexpr,
    FOLD: tl.constexpr,
):
    row, chunk, channel, first, size = locate(seq, rank, chunk_steps, chunks, R)
    inside = channel < rank
    ut = wide(ut)
    vt = wide(vt)
    st = wide(st)
    at = wide(at)
    carry = load_state(initial, row, rank, channel, inside, INITIAL)
    if SPLIT:
        carry = fold_chunks(carry, states, row, chunk, chunks, rank, channel, inside, DECAY, FOLD)
    decay += row * ab + first * at
    u_at = tile_at(u + row * ub + first * ut, ut, channel, ur, C, S)
    v_at = tile_at(v + row * vb + first * vt, vt, channel, vr, C, S)
    scores_at = tile_at(scores + row * sb + first * st, st, channel, sr, C, S)
    decay_at = tile_at(decay, at, channel, ar, C, S)
    decay_row = load_decay_row(decay, channel, ar, inside, DECAY)
    out_at = tile_at(out + (row * seq + first) * rank, rank, channel, 1, C, S)
    step = tl.arange(0, C) * S
    for start in range(0, size, C * S):
        left = size - start
        gates = load_tile(scores_at, st, left, inside, 0.0, S)
        us = gated(load_tile(u_at, ut, left, inside, 0.0, S), gates, HARD, S)
        vs = gated(load_tile(v_at, vt, left, inside, 0.0, S), gates, HARD, S)
        decays = load_decays(decay_at, at, decay_row, left, inside, DECAY, S)
        values, weights, before, _, carry, _ = scan_tile(us, decays, carry, False, S)
        for s in tl.static_range(S):
            mask = (step + s < left)[:, None] & inside[None, :]
            product = (values[s] + weights[s] * before) * vs[s]
            tl.store(out_at + s * rank, rounded(product, out.dtype.element_ty), mask)
        u_at += C * S * ut
        v_at += C * S * vt
        scores_at += C * S * st
        decay_at += C * S * at
        out_at += C * S * rank
    if chunk == chunks - 1:
        tl.store(ending + row * rank + channel, carry, inside)


def launch_gated_chunk_states(
    u: Tensor, scores: Tensor, decay: Tensor | None, states: Tensor, hard: bool, plan: Plan
) -> None:
    """Fills states, as `Plan.state_shape` has them, in float32."""
    _, seq, rank = u.shape
    kind, source, strides = decay_arguments(decay, u)
    with torch.cuda.device_of(u):
        gated_chunk_states_kernel[(plan.programs,)](
            u, scores, source, states, seq, rank, plan.chunk_steps, plan.chunks, *u.stride(), *scores.stride(),
            *strides, DECAY=kind, HARD=hard, **tile_options(plan),
        )  # fmt: skip


def launch_gated_scan(
    u: Tensor,
    v: Tensor,
    scores: Tensor,
    decay: Tensor | None,
    initial: Tensor | None,
    out: Tensor,
    ending: Tensor,
    states: Tensor | None,
    hard: bool,
    plan: Plan,
) -> None:
    """Fills out and the state after the last step, `ending`; states of the chunks where the plan has several."""
    _, seq, rank = u.shape
    kind, source, strides = decay_arguments(decay, u)
    with torch.cuda.device_of(u):
        gated_scan_kernel[(plan.programs,)](
            u, v, scores, source, ending if initial is None else initial, out, ending,
            ending if states is None else states, seq, rank, plan.chunk_steps, plan.chunks,
            *u.stride(), *v.stride(), *scores.stride(), *strides, DECAY=kind, HARD=hard,
            INITIAL=initial is not None, SPLIT=plan.split, FOLD=plan.fold, **tile_options(plan),
        )  # fmt: skip
