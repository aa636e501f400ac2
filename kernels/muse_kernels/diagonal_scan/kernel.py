"""Triton kernels of the diagonal scan: final states of chunks, the scan forwards, its gradients backwards."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from muse_kernels.diagonal_scan.plan import Plan, decay_kind
from muse_kernels.diagonal_scan.tiles import (
    fold_chunks,
    load_decay_row,
    load_decays,
    load_tile,
    locate,
    scan_tile,
    store_chunk_state,
    tile_at,
    wide,
)
from muse_kernels.products import rounded


@triton.jit
def chunk_states_kernel(
    x,
    decay,
    states,
    seq,
    rank,
    chunk_steps,
    chunks,
    xb,
    xt,
    xr,
    ab,
    at,
    ar,
    DECAY: tl.constexpr,
    REVERSED: tl.constexpr,
    C: tl.constexpr,
    S: tl.constexpr,
    R: tl.constexpr,
    STAGES: tl.constexpr,
):
    """The state that each chunk ends with if it begins with zero; reversed, from its last step to its first."""
    row, chunk, channel, first, size = locate(seq, rank, chunk_steps, chunks, R)
    inside = channel < rank
    xt = wide(xt)
    at = wide(at)
    x += row * xb + first * xt
    decay += row * ab + first * at
    index = chunk
    if REVERSED:
        x += (size - 1) * xt
        decay += (size - 1) * at
        xt = -xt
        at = -at
        index = chunks - 1 - chunk
    x_at = tile_at(x, xt, channel, xr, C, S)
    decay_at = tile_at(decay, at, channel, ar, C, S)
    decay_row = load_decay_row(decay, channel, ar, inside, DECAY)
    state = tl.zeros((R,), tl.float32)
    through = tl.full((R,), 1.0, tl.float32)
    for start in tl.range(0, size, C * S, num_stages=STAGES):
        left = size - start
        xs = load_tile(x_at, xt, left, inside, 0.0, S)
        decays = load_decays(decay_at, at, decay_row, left, inside, DECAY, S)
        _, _, _, _, state, tile_through = scan_tile(xs, decays, state, REVERSED, S)
        through *= tile_through
        x_at += C * S * xt
        decay_at += C * S * at
    store_chunk_state(states, row, index, chunks, rank, channel, inside, state, through, DECAY)


@triton.jit
def scan_kernel(
    x,
    decay,
    h,
    states,
    seq,
    rank,
    chunk_steps,
    chunks,
    xb,
    xt,
    xr,
    ab,
    at,
    ar,
    DECAY: tl.constexpr,
    SPLIT: tl.constexpr,
    C: tl.constexpr,
    S: tl.constexpr,
    R: tl.constexpr,
    FOLD: tl.constexpr,
    STAGES: tl.constexpr,
):
    row, chunk, channel, first, size = locate(seq, rank, chunk_steps, chunks, R)
    inside = channel < rank
    xt = wide(xt)
    at = wide(at)
    carry = tl.zeros((R,), tl.float32)
    if SPLIT:
        carry = fold_chunks(carry, states, row, chunk, chunks, rank, channel, inside, DECAY, FOLD)
    decay += row * ab + first * at
    x_at = tile_at(x + row * xb + first * xt, xt, channel, xr, C, S)
    decay_at = tile_at(decay, at, channel, ar, C, S)
    decay_row = load_decay_row(decay, channel, ar, inside, DECAY)
    h_at = tile_at(h + (row * seq + first) * rank, rank, channel, 1, C, S)
    step = tl.arange(0, C) * S
    for start in tl.range(0, size, C * S, num_stages=STAGES):
        left = size - start
        xs = load_tile(x_at, xt, left, inside, 0.0, S)
        decays = load_decays(decay_at, at, decay_row, left, inside, DECAY, S)
        values, weights, before, _, carry, _ = scan_tile(xs, decays, carry, False, S)
        for s in tl.static_range(S):
            mask = (step + s < left)[:, None] & inside[None, :]
            state = values[s] + weights[s] * before
            tl.store(h_at + s * rank, rounded(state, h.dtype.element_ty), mask)
        x_at += C * S * xt
        decay_at += C * S * at
        h_at += C * S * rank


@triton.jit
def scan_backward_kernel(
    grad,
    decay,
    h,
    grad_x,
    grad_decay,
    states,
    seq,
    rank,
    chunk_steps,
    chunks,
    gb,
    gt,
    gr,
    ab,
    at,
    ar,
    DECAY: tl.constexpr,
    GRAD_DECAY: tl.constexpr,
    SPLIT: tl.constexpr,
    C: tl.constexpr,
    S: tl.constexpr,
    R: tl.constexpr,
    FOLD: tl.constexpr,
    STAGES: tl.constexpr,
):
    """GRAD_DECAY 2: dh_t h_(t-1) at every step; 1: its sum over this program's steps; 0: none."""
    row, chunk, channel, first, size = locate(seq, rank, chunk_steps, chunks, R)
    inside = channel < rank
    gt = wide(gt)
    at = wide(at)
    rt = wide(rank)
    carry = tl.zeros((R,), tl.float32)
    if SPLIT:
        carry = fold_chunks(carry, states, row, chunks - 1 - chunk, chunks, rank, channel, inside, DECAY, FOLD)
    last = first + size - 1
    decay += row * ab + last * at
    grad_at = tile_at(grad + row * gb + last * gt, -gt, channel, gr, C, S)
    decay_at = tile_at(decay, -at, channel, ar, C, S)
    decay_row = load_decay_row(decay, channel, ar, inside, DECAY)
    place = row * seq * rank + last * rt
    x_at = tile_at(grad_x + place, -rt, channel, 1, C, S)
    h_at = tile_at(h + place - rank, -rt, channel, 1, C, S)
    full_at = tile_at(grad_decay + place, -rt, channel, 1, C, S)
    total = tl.zeros((C, R), tl.float32)
    step = tl.arange(0, C) * S
    for start in tl.range(0, size, C * S, num_stages=STAGES):
        left = size - start
        xs = load_tile(grad_at, -gt, left, inside, 0.0, S)
        decays = load_decays(decay_at, -at, decay_row, left, inside, DECAY, S)
        if GRAD_DECAY > 0:
            has_before = tl.where(first == 0, left - 1, left)  # no state comes before step 0
            hs = load_tile(h_at, -rt, has_before, inside, 0.0, S)
        values, weights, before, _, carry, _ = scan_tile(xs, decays, carry, True, S)
        for s in tl.static_range(S):
            mask = (step + s < left)[:, None] & inside[None, :]
            grad_h = values[s] + weights[s] * before
            tl.store(x_at - s * rt, rounded(grad_h, grad_x.dtype.element_ty), mask)
            if GRAD_DECAY == 2:
                tl.store(full_at - s * rt, rounded(grad_h * hs[s], grad_decay.dtype.element_ty), mask)
            elif GRAD_DECAY == 1:
                total += grad_h * hs[s]
        grad_at -= C * S * gt
        decay_at -= C * S * at
        x_at -= C * S * rt
        h_at -= C * S * rt
        full_at -= C * S * rt
    if GRAD_DECAY == 1:
        tl.store(grad_decay + (row * chunks + chunk) * rank + channel, tl.sum(total, 0), inside)


def launch_chunk_states(x: Tensor, decay: Tensor | None, states: Tensor, plan: Plan, *, reversed_time: bool) -> None:
    """Fills states, as `Plan.state_shape` has them, in float32."""
    _, seq, rank = x.shape
    kind, source, strides = decay_arguments(decay, x)
    with torch.cuda.device_of(x):
        chunk_states_kernel[(plan.programs,)](
            x, source, states, seq, rank, plan.chunk_steps, plan.chunks, *x.stride(), *strides,
            DECAY=kind, REVERSED=reversed_time, STAGES=plan.tile.stages, **tile_options(plan),
        )  # fmt: skip


def launch_scan(x: Tensor, decay: Tensor | None, h: Tensor, states: Tensor | None, plan: Plan) -> None:
    """Fills h; states of the chunks where the plan has several."""
    _, seq, rank = x.shape
    kind, source, strides = decay_arguments(decay, x)
    with torch.cuda.device_of(x):
        scan_kernel[(plan.programs,)](
            x, source, h, h if states is None else states, seq, rank, plan.chunk_steps, plan.chunks,
            *x.stride(), *strides, DECAY=kind, SPLIT=plan.split, FOLD=plan.fold,
            STAGES=plan.tile.stages, **tile_options(plan),
        )  # fmt: skip


def launch_scan_backward(
    grad: Tensor,
    decay: Tensor | None,
    h: Tensor | None,
    grad_x: Tensor,
    grad_decay: Tensor | None,
    states: Tensor | None,
    plan: Plan,
) -> None:
    """Fills grad_x, and grad_decay: as x, or (batch, chunks, rank) sums where decay is one a channel."""
    _, seq, rank = grad.shape
    kind, source, strides = decay_arguments(decay, grad)
    wanted = 0 if grad_decay is None or decay is None else 1 if decay.dim() == 1 else 2
    with torch.cuda.device_of(grad):
        scan_backward_kernel[(plan.programs,)](
            grad, source, grad_x if h is None else h, grad_x, grad_x if grad_decay is None else grad_decay,
            grad_x if states is None else states, seq, rank, plan.chunk_steps, plan.chunks, *grad.stride(), *strides,
            DECAY=kind, GRAD_DECAY=wanted, SPLIT=plan.split, FOLD=plan.fold,
            STAGES=plan.tile.stages, **tile_options(plan),
        )  # fmt: skip


def tile_options(plan: Plan) -> dict[str, int]:
    """The shape of a tile, as every scan kernel takes it."""
    tile = plan.tile
    return {"C": tile.rows, "S": tile.steps, "R": tile.channels, "num_warps": tile.warps}


def decay_arguments(decay: Tensor | None, stand_in: Tensor) -> tuple[int, Tensor, tuple[int, int, int]]:
    """The kind of decay, a pointer (to any tensor where there is none) and its strides."""
    if decay is None:
        return 0, stand_in, (0, 0, 0)
    batch_stride, step_stride = (0, 0) if decay.dim() == 1 else decay.stride()[:2]
    return decay_kind(decay), decay, (batch_stride, step_stride, decay.stride(-1))
