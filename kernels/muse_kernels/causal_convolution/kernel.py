"""Triton kernels of the causal convolution. A program reads each tap's tile anew: only the first comes from memory."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from muse_kernels.products import rounded

BLOCK_CHANNELS = 128


@triton.jit
def load_shifted(
    x, before, row, step, channel, inside, seq, d_model, xb, xt, xd, BEFORE: tl.constexpr, WIDTH: tl.constexpr
):
    """Rows `step` of x, (T, D) in float32; the width - 1 steps below zero come from before, others are zero."""
    present = (step >= 0) & (step < seq)
    pointers = x + row * xb + step.to(tl.int64)[:, None] * xt + channel[None, :] * xd
    values = tl.load(pointers, present[:, None] & inside[None, :], other=0.0).to(tl.float32)
    if BEFORE:
        ahead = (step < 0) & (step > -WIDTH)
        pointers = before + (row * (WIDTH - 1) + step + WIDTH - 1)[:, None] * d_model + channel[None, :]
        values += tl.load(pointers, ahead[:, None] & inside[None, :], other=0.0).to(tl.float32)
    return values


@triton.jit
def convolution_kernel(
    x,
    weight,
    before,
    add,
    y,
    seq,
    d_model,
    xb,
    xt,
    xd,
    pb,
    pt,
    pd,
    BEFORE: tl.constexpr,
    ADD: tl.constexpr,
    WIDTH: tl.constexpr,
    T: tl.constexpr,
    D: tl.constexpr,
):
    blocks = tl.cdiv(d_model, D)
    tiles = tl.cdiv(seq, T)
    pid = tl.program_id(0)
    channel = pid % blocks * D + tl.arange(0, D)
    inside = channel < d_model
    step = pid // blocks % tiles * T + tl.arange(0, T)
    row = (pid // blocks // tiles).to(tl.int64)
    mask = (step < seq)[:, None] & inside[None, :]
    total = tl.zeros((T, D), tl.float32)
    if ADD:
        pointers = add + row * pb + step.to(tl.int64)[:, None] * pt + channel[None, :] * pd
        total += tl.load(pointers, mask, other=0.0).to(tl.float32)
    for tap in tl.static_range(WIDTH):
        source = step - (WIDTH - 1 - tap)
        values = load_shifted(x, before, row, source, channel, inside, seq, d_model, xb, xt, xd, BEFORE, WIDTH)
        total += values * tl.load(weight + tap * d_model + channel, inside, other=0.0).to(tl.float32)[None, :]
    place = (row * seq + step)[:, None] * d_model + channel[None, :]
    tl.store(y + place, rounded(total, y.dtype.element_ty), mask)


@triton.jit
def convolution_backward_kernel(
    grad,
    x,
    weight,
    before,
    grad_x,
    sums,
    grad_before,
    seq,
    d_model,
    walks,
    walk_steps,
    gb,
    gt,
    gd,
    xb,
    xt,
    xd,
    BEFORE: tl.constexpr,
    GRAD_WEIGHT: tl.constexpr,
    GRAD_BEFORE: tl.constexpr,
    WIDTH: tl.constexpr,
    T: tl.constexpr,
    D: tl.constexpr,
):
    """Gradients of x and, from the first walk, of before; and sums over this walk of grad_t * x_(t - lag)."""
    blocks = tl.cdiv(d_model, D)
    pid = tl.program_id(0)
    channel = pid % blocks * D + tl.arange(0, D)
    inside = channel < d_model
    walk = pid // blocks % walks
    row = (pid // blocks // walks).to(tl.int64)
    first = walk * walk_steps
    last = tl.minimum(first + walk_steps, seq)
    if GRAD_BEFORE:
        first = tl.where(walk == 0, 1 - WIDTH, first)
    totals = ()
    for _ in tl.static_range(WIDTH if GRAD_WEIGHT else 0):
        totals += (tl.zeros((T, D), tl.float32),)
    for start in range(first, last, T):
        step = start + tl.arange(0, T)
        own = load_shifted(grad, grad, row, step, channel, inside, last, d_model, gb, gt, gd, False, WIDTH)
        total = tl.zeros((T, D), tl.float32)
        sums_so_far = ()
        for tap in tl.static_range(WIDTH):
            lag = WIDTH - 1 - tap
            later = load_shifted(grad, grad, row, step + lag, channel, inside, seq, d_model, gb, gt, gd, False, WIDTH)
            total += later * tl.load(weight + tap * d_model + channel, inside, other=0.0).to(tl.float32)[None, :]
            if GRAD_WEIGHT:
                xs = load_shifted(x, before, row, step - lag, channel, inside, seq, d_model, xb, xt, xd, BEFORE, WIDTH)
                sums_so_far += (totals[tap] + own * xs,)
        if GRAD_WEIGHT:
            totals = sums_so_far
        mask = ((step >= 0) & (step < last))[:, None] & inside[None, :]
        place = (row * seq + step)[:, None] * d_model + channel[None, :]
        tl.store(grad_x + place, rounded(total, grad_x.dtype.element_ty), mask)
        if GRAD_BEFORE:
            place = (row * (WIDTH - 1) + step + WIDTH - 1)[:, None] * d_model + channel[None, :]
            total = rounded(total, grad_before.dtype.element_ty)
            tl.store(grad_before + place, total, (step < 0)[:, None] & inside[None, :])
    if GRAD_WEIGHT:
        for tap in tl.static_range(WIDTH):
            place = ((row * walks + walk) * WIDTH + tap) * d_model + channel
            tl.store(sums + place, tl.sum(totals[tap], 0), inside)


def launch_convolution(
    x: Tensor, weight: Tensor, before: Tensor | None, add: Tensor | None, y: Tensor, tile_steps: int
) -> None:
    """Fills y; weight and before are contiguous."""
    batch, seq, d_model = x.shape
    block = _block(d_model)
    ahead = before is not None and before.numel() > 0
    with torch.cuda.device_of(x):
        convolution_kernel[(batch * triton.cdiv(seq, tile_steps) * triton.cdiv(d_model, block),)](
            x, weight, before if ahead else x, x if add is None else add, y,
            seq, d_model, *x.stride(), *((0, 0, 0) if add is None else add.stride()),
            BEFORE=ahead, ADD=add is not None, WIDTH=weight.shape[0], T=tile_steps, D=block,
        )  # fmt: skip


def launch_convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    before: Tensor | None,
    grad_x: Tensor,
    sums: Tensor | None,
    grad_before: Tensor | None,
    walks: int,
    walk_steps: int,
    tile_steps: int,
) -> None:
    """Fills grad_x, sums (batch * walks, width, d_model) of the weight's gradient in float32, and grad_before;
    weight and before are contiguous."""
    batch, seq, d_model = x.shape
    block = _block(d_model)
    ahead = before is not None and before.numel() > 0
    with torch.cuda.device_of(x):
        convolution_backward_kernel[(batch * walks * triton.cdiv(d_model, block),)](
            grad, x, weight, before if ahead else x, grad_x,
            grad_x if sums is None else sums, grad_x if grad_before is None else grad_before, seq, d_model, walks,
            walk_steps, *grad.stride(), *x.stride(), BEFORE=ahead, GRAD_WEIGHT=sums is not None,
            GRAD_BEFORE=grad_before is not None and ahead, WIDTH=weight.shape[0], T=tile_steps, D=block,
        )  # fmt: skip


def _block(d_model: int) -> int:
    """Channels of a tile."""
    return min(BLOCK_CHANNELS, int(triton.next_power_of_2(d_model)))
