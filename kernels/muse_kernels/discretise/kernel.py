"""Triton kernels: a program has one head of some tokens."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from muse_kernels.products import rounded

ROWS = 16  # tokens at a time


@triton.jit
def _softplus(raw):
    """log(1 + exp(raw)), without an overflow, and as accurate where exp(raw) is small: what 1 + it loses is made up."""
    small = tl.exp(tl.minimum(raw, 20.0))
    whole = 1.0 + small
    kept = whole - 1.0
    log = tl.where(kept == 0.0, small, tl.log(whole) * (small / tl.where(kept == 0.0, 1.0, kept)))
    return tl.where(raw > 20.0, raw, log)


@triton.jit
def _forward(
    v, steps, bias, rate_log, log_decay, taken, tokens, heads, head_dim, v_row, v_head, s_row, s_head,
    ROWS: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.arange(0, P)
    there = row < tokens
    raw = tl.load(steps + row * s_row + head * s_head, mask=there, other=0.0).to(tl.float32)
    step = _softplus(raw + tl.load(bias + head).to(tl.float32))
    rate = tl.exp(tl.load(rate_log + head).to(tl.float32))
    tl.store(log_decay + row * heads + head, -rate * step, mask=there)
    inside = there[:, None] & (column < head_dim)[None, :]
    value = tl.load(v + row[:, None] * v_row + head * v_head + column[None, :], mask=inside, other=0.0).to(tl.float32)
    place = (row[:, None] * heads + head) * head_dim + column[None, :]
    tl.store(taken + place, rounded(value * step[:, None], taken.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    grad_log, grad_taken, v, steps, bias, rate_log, grad_v, grad_steps, partial, tokens, heads, head_dim,
    g_row, g_head, v_row, v_head, s_row, s_head, programs,
    ROWS: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """partial (programs, 2, heads): sums of the gradients of the bias and of the rate's logarithm."""
    head = tl.program_id(1)
    column = tl.arange(0, P)
    shift = tl.load(bias + head).to(tl.float32)
    rate = tl.exp(tl.load(rate_log + head).to(tl.float32))
    for_bias = tl.zeros((ROWS,), tl.float32)
    for_rate = tl.zeros((ROWS,), tl.float32)
    for start in range(tl.program_id(0) * ROWS, tokens, programs * ROWS):
        row = (start + tl.arange(0, ROWS)).to(tl.int64)
        there = row < tokens
        inside = there[:, None] & (column < head_dim)[None, :]
        raw = tl.load(steps + row * s_row + head * s_head, mask=there, other=0.0).to(tl.float32) + shift
        step = _softplus(raw)
        d_log = tl.load(grad_log + row * heads + head, mask=there, other=0.0).to(tl.float32)
        source = row[:, None] * v_row + head * v_head + column[None, :]
        value = tl.load(v + source, mask=inside, other=0.0).to(tl.float32)
        given = row[:, None] * g_row + head * g_head + column[None, :]
        d_taken = tl.load(grad_taken + given, mask=inside, other=0.0).to(tl.float32)
        d_raw = (tl.sum(d_taken * value, 1) - rate * d_log) * tl.sigmoid(raw)
        for_bias += d_raw
        for_rate -= d_log * rate * step
        place = (row[:, None] * heads + head) * head_dim + column[None, :]
        tl.store(grad_v + place, rounded(d_taken * step[:, None], grad_v.dtype.element_ty), mask=inside)
        tl.store(grad_steps + row * heads + head, rounded(d_raw, grad_steps.dtype.element_ty), mask=there)
    share = partial + tl.program_id(0) * 2 * heads + head
    tl.store(share, tl.sum(for_bias, 0))
    tl.store(share + heads, tl.sum(for_rate, 0))


def launch_forward(v: Tensor, steps: Tensor, bias: Tensor, rate_log: Tensor, log_decay: Tensor, taken: Tensor) -> None:
    """Fills log_decay (batch, seq, heads) and taken, as v."""
    tokens, heads, head_dim = v.shape
    with torch.cuda.device_of(v):
        _forward[(triton.cdiv(tokens, ROWS), heads)](
            *(v, steps, bias, rate_log, log_decay, taken, tokens, heads, head_dim),
            *(*v.stride()[:2], *steps.stride()),
            **_options(head_dim),
        )


def launch_backward(
    gradients: tuple[Tensor, Tensor],
    operands: tuple[Tensor, Tensor, Tensor, Tensor],
    grad_v: Tensor,
    grad_steps: Tensor,
    partial: Tensor,
) -> None:
    """Fills the gradients of v and the steps, and each program's sums (programs, 2 heads)."""
    v, steps, _, _ = operands
    tokens, heads, head_dim = v.shape
    with torch.cuda.device_of(v):
        _backward[(len(partial), heads)](
            *(*gradients, *operands, grad_v, grad_steps, partial, tokens, heads, head_dim),
            *(*gradients[1].stride()[:2], *v.stride()[:2], *steps.stride(), len(partial)),
            **_options(head_dim),
        )


def _options(head_dim: int) -> dict[str, int]:
    block = triton.next_power_of_2(head_dim)
    return {"ROWS": ROWS, "P": block, "num_warps": min(8, max(1, block // 32))}
