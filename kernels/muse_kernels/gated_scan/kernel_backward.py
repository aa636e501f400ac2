"""Triton kernels of the gated scan's gradients: through the product forwards in time, through the scan backwards."""

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
from muse_kernels.gated_scan.kernel import gate_of, gated
from muse_kernels.products import rounded


@triton.jit
def product_backward_kernel(
    grad,
    u,
    v,
    scores,
    decay,
    initial,
    states,
    grad_v,
    grad_scores,
    h_before,
    late_states,
    seq,
    rank,
    chunk_steps,
    chunks,
    gb,
    gt,
    gr,
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
    GRAD_DECAY: tl.constexpr,
    HARD: tl.constexpr,
    INITIAL: tl.constexpr,
    SPLIT: tl.constexpr,
    C: tl.constexpr,
    S: tl.constexpr,
    R: tl.constexpr,
    FOLD: tl.constexpr,
):
    """With h computed again: grad_v, the part of grad_scores through v * gate, and, for the gradient of the decay,
    h_(t-1) at each step. Where a sequence is split, also what each chunk sends to the state before it, if nothing
    comes from after it, and the decay through the chunk."""
    row, chunk, channel, first, size = locate(seq, rank, chunk_steps, chunks, R)
    inside = channel < rank
    gt = wide(gt)
    ut = wide(ut)
    vt = wide(vt)
    st = wide(st)
    at = wide(at)
    carry = load_state(initial, row, rank, channel, inside, INITIAL)
    if GRAD_DECAY > 0:  # noqa: SIM102  (a constant, and a value of the run, which Triton keeps apart)
        if chunk == 0:
            tl.store(h_before + row * seq * rank + channel, carry, inside)
    if SPLIT:
        carry = fold_chunks(carry, states, row, chunk, chunks, rank, channel, inside, DECAY, FOLD)
    decay += row * ab + first * at
    grad_at = tile_at(grad + row * gb + first * gt, gt, channel, gr, C, S)
    u_at = tile_at(u + row * ub + first * ut, ut, channel, ur, C, S)
    v_at = tile_at(v + row * vb + first * vt, vt, channel, vr, C, S)
    scores_at = tile_at(scores + row * sb + first * st, st, channel, sr, C, S)
    decay_at = tile_at(decay, at, channel, ar, C, S)
    decay_row = load_decay_row(decay, channel, ar, inside, DECAY)
    place = (row * seq + first) * rank
    grad_v_at = tile_at(grad_v + place, rank, channel, 1, C, S)
    grad_scores_at = tile_at(grad_scores + place, rank, channel, 1, C, S)
    h_at = tile_at(h_before + place + rank, rank, channel, 1, C, S)
    late = tl.zeros((C, R), tl.float32)
    through = tl.full((R,), 1.0, tl.float32)
    step = tl.arange(0, C) * S
    for start in range(0, size, C * S):
        left = size - start
        ss = load_tile(scores_at, st, left, inside, 0.0, S)
        xs = gated(load_tile(u_at, ut, left, inside, 0.0, S), ss, HARD, S)
        vs = load_tile(v_at, vt, left, inside, 0.0, S)
        gs = load_tile(grad_at, gt, left, inside, 0.0, S)
        decays = load_decays(decay_at, at, decay_row, left, inside, DECAY, S)
        values, weights, before, skipped, carry, tile_through = scan_tile(xs, decays, carry, False, S)
        sent = tl.zeros((C, R), tl.float32)
        for s in tl.static_range(S):
            mask = (step + s < left)[:, None] & inside[None, :]
            gate, slope = gate_of(ss[s], HARD)
            h = values[s] + weights[s] * before
            product = gs[s] * h
            tl.store(grad_v_at + s * rank, rounded(product * gate, grad_v.dtype.element_ty), mask)
            part = rounded(product * vs[s] * slope, grad_scores.dtype.element_ty)
            tl.store(grad_scores_at + s * rank, part, mask)
            if GRAD_DECAY > 0:
                has_next = (step + s < seq - first - start - 1)[:, None]
                tl.store(h_at + s * rank, h, mask & has_next)
            if SPLIT:
                sent += weights[s] * gs[s] * vs[s] * gate
        if SPLIT:
            late += through[None, :] * skipped * sent
            through *= tile_through
        grad_at += C * S * gt
        u_at += C * S * ut
        v_at += C * S * vt
        scores_at += C * S * st
        decay_at += C * S * at
        grad_v_at += C * S * rank
        grad_scores_at += C * S * rank
        h_at += C * S * rank
    if SPLIT:
        index = chunks - 1 - chunk
        store_chunk_state(late_states, row, index, chunks, rank, channel, inside, tl.sum(late, 0), through, DECAY)


@triton.jit
def scan_backward_kernel(
    grad,
    u,
    v,
    scores,
    decay,
    grad_ending,
    h_before,
    late_states,
    grad_u,
    grad_scores,
    grad_decay,
    grad_initial,
    seq,
    rank,
    chunk_steps,
    chunks,
    gb,
    gt,
    gr,
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
    GRAD_DECAY: tl.constexpr,
    GRAD_INITIAL: tl.constexpr,
    GRAD_ENDING: tl.constexpr,
    HARD: tl.constexpr,
    SPLIT: tl.constexpr,
    C: tl.constexpr,
    S: tl.constexpr,
    R: tl.constexpr,
    FOLD: tl.constexpr,
):
    """dh_t = grad_t v_t gate_t + a_(t+1) dh_(t+1): grad_u, the rest of grad_scores, grad_decay as in the diagonal
    scan, and grad_initial = a_0 dh_0."""
    row, chunk, channel, first, size = locate(seq, rank, chunk_steps, chunks, R)
    inside = channel < rank
    gt = wide(gt)
    ut = wide(ut)
    vt = wide(vt)
    st = wide(st)
    at = wide(at)
    rt = wide(rank)
    carry = load_state(grad_ending, row, rank, channel, inside, GRAD_ENDING)
    if SPLIT:
        carry = fold_chunks(carry, late_states, row, chunks - 1 - chunk, chunks, rank, channel, inside, DECAY, FOLD)
    last = first + size - 1
    decay += row * ab + last * at
    grad_at = tile_at(grad + row * gb + last * gt, -gt, channel, gr, C, S)
    u_at = tile_at(u + row * ub + last * ut, -ut, channel, ur, C, S)
    v_at = tile_at(v + row * vb + last * vt, -vt, channel, vr, C, S)
    scores_at = tile_at(scores + row * sb + last * st, -st, channel, sr, C, S)
    decay_at = tile_at(decay, -at, channel, ar, C, S)
    decay_row = load_decay_row(decay, channel, ar, inside, DECAY)
    place = row * seq * rank + last * rt
    grad_u_at = tile_at(grad_u + place, -rt, channel, 1, C, S)
    grad_scores_at = tile_at(grad_scores + place, -rt, channel, 1, C, S)
    h_at = tile_at(h_before + place, -rt, channel, 1, C, S)
    grad_decay_at = tile_at(grad_decay + place, -rt, channel, 1, C, S)
    total = tl.zeros((C, R), tl.float32)
    step = tl.arange(0, C) * S
    for start in range(0, size, C * S):
        left = size - start
        ss = load_tile(scores_at, -st, left, inside, 0.0, S)
        vs = gated(load_tile(v_at, -vt, left, inside, 0.0, S), ss, HARD, S)
        gs = load_tile(grad_at, -gt, left, inside, 0.0, S)
        us = load_tile(u_at, -ut, left, inside, 0.0, S)
        product_part = load_tile(grad_scores_at, -rt, left, inside, 0.0, S)
        decays = load_decays(decay_at, -at, decay_row, left, inside, DECAY, S)
        if GRAD_DECAY > 0:
            hs = load_tile(h_at, -rt, left, inside, 0.0, S)
        xs = ()
        for s in tl.static_range(S):
            xs += (gs[s] * vs[s],)
        values, weights, before, _, carry, _ = scan_tile(xs, decays, carry, True, S)
        for s in tl.static_range(S):
            mask = (step + s < left)[:, None] & inside[None, :]
            gate, slope = gate_of(ss[s], HARD)
            grad_h = values[s] + weights[s] * before
            tl.store(grad_u_at - s * rt, rounded(grad_h * gate, grad_u.dtype.element_ty), mask)
            grad_score = product_part[s] + grad_h * us[s] * slope
            tl.store(grad_scores_at - s * rt, rounded(grad_score, grad_scores.dtype.element_ty), mask)
            if GRAD_DECAY == 2:
                tl.store(grad_decay_at - s * rt, rounded(grad_h * hs[s], grad_decay.dtype.element_ty), mask)
            elif GRAD_DECAY == 1:
                total += grad_h * hs[s]
        grad_at -= C * S * gt
        u_at -= C * S * ut
        v_at -= C * S * vt
        scores_at -= C * S * st
        decay_at -= C * S * at
        grad_u_at -= C * S * rt
        grad_scores_at -= C * S * rt
        h_at -= C * S * rt
        grad_decay_at -= C * S * rt
    if GRAD_DECAY == 1:
        tl.store(grad_decay + (row * chunks + chunk) * rank + channel, tl.sum(total, 0), inside)
    if GRAD_INITIAL:
        carry = rounded(carry, grad_initial.dtype.element_ty)
        if chunk == 0:
            tl.store(grad_initial + row * rank + channel, carry, inside)


def launch_product_backward(
    grad: Tensor,
    u: Tensor,
    v: Tensor,
    scores: Tensor,
    decay: Tensor | None,
    initial: Tensor | None,
    states: Tensor | None,
    grad_v: Tensor,
    grad_scores: Tensor,
    h_before: Tensor | None,
    late_states: Tensor | None,
    hard: bool,
    plan: Plan,
) -> None:
    """Fills grad_v, grad_scores in part, and h_before and late_states where they are given."""
    _, seq, rank = u.shape
    kind, source, strides = decay_arguments(decay, u)
    with torch.cuda.device_of(u):
        product_backward_kernel[(plan.programs,)](
            grad, u, v, scores, source, initial if initial is not None else u, states if states is not None else u,
            grad_v, grad_scores, h_before if h_before is not None else grad_v,
            late_states if late_states is not None else grad_v, seq, rank, plan.chunk_steps, plan.chunks,
            *grad.stride(), *u.stride(), *v.stride(), *scores.stride(), *strides,
            DECAY=kind, GRAD_DECAY=int(h_before is not None), HARD=hard, INITIAL=initial is not None,
            SPLIT=plan.split, FOLD=plan.fold, **tile_options(plan),
        )  # fmt: skip


def launch_scan_backward(
    grad: Tensor,
    u: Tensor,
    v: Tensor,
    scores: Tensor,
    decay: Tensor | None,
    grad_ending: Tensor | None,
    h_before: Tensor | None,
    late_states: Tensor | None,
    grad_u: Tensor,
    grad_scores: Tensor,
    grad_decay: Tensor | None,
    grad_initial: Tensor | None,
    hard: bool,
    plan: Plan,
) -> None:
    """Fills grad_u, grad_decay and grad_initial, and completes grad_scores."""
    _, seq, rank = u.shape
    kind, source, strides = decay_arguments(decay, u)
    wanted = 0 if grad_decay is None or decay is None else 1 if decay.dim() == 1 else 2
    with torch.cuda.device_of(u):
        scan_backward_kernel[(plan.programs,)](
            grad, u, v, scores, source, grad_ending if grad_ending is not None else u,
            h_before if h_before is not None else grad_u, late_states if late_states is not None else grad_u,
            grad_u, grad_scores, grad_decay if grad_decay is not None else grad_u,
            grad_initial if grad_initial is not None else grad_u, seq, rank, plan.chunk_steps, plan.chunks,
            *grad.stride(), *u.stride(), *v.stride(), *scores.stride(), *strides,
            DECAY=kind, GRAD_DECAY=wanted, GRAD_INITIAL=grad_initial is not None,
            GRAD_ENDING=grad_ending is not None, HARD=hard, SPLIT=plan.split, FOLD=plan.fold, **tile_options(plan),
        )  # fmt: skip
