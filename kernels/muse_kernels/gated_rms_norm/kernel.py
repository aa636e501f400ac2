"""Triton kernels of the gated norm: a program has some tokens, one after the other."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from muse_kernels.products import rounded


@triton.jit
def _load(pointer, column, width):
    return tl.load(pointer + column, mask=column < width, other=0.0).to(tl.float32)


@triton.jit
def _forward(x, v, skip, gate, weight, y, width, head_dim, eps, x_row, v_row, gate_row, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    factor = tl.load(skip + column // head_dim, mask=inside, other=0.0).to(tl.float32)
    total = _load(x + token * x_row, column, width) + factor * _load(v + token * v_row, column, width)
    root = tl.rsqrt(tl.sum(total * total, 0) / width + eps)
    g = _load(gate + token * gate_row, column, width)
    result = total * root * _load(weight, column, width) * g * tl.sigmoid(g)
    tl.store(y + token * width + column, rounded(result, y.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    grad,
    x,
    v,
    skip,
    gate,
    weight,
    grad_x,
    grad_v,
    grad_gate,
    partial,
    tokens,
    width,
    head_dim,
    eps,
    grad_row,
    x_row,
    v_row,
    gate_row,
    programs,
    BLOCK: tl.constexpr,
):
    """partial (programs, 2 width): sums of the weight's gradient, and of grad x times v for the skip's."""
    column = tl.arange(0, BLOCK)
    inside = column < width
    factor = tl.load(skip + column // head_dim, mask=inside, other=0.0).to(tl.float32)
    scale = _load(weight, column, width)
    for_weight = tl.zeros((BLOCK,), tl.float32)
    for_skip = tl.zeros((BLOCK,), tl.float32)
    for index in range(tl.program_id(0), tokens, programs):
        token = tl.zeros((), tl.int64) + index
        value = _load(v + token * v_row, column, width)
        total = _load(x + token * x_row, column, width) + factor * value
        root = tl.rsqrt(tl.sum(total * total, 0) / width + eps)
        normed = total * root
        g = _load(gate + token * gate_row, column, width)
        dy = _load(grad + token * grad_row, column, width)
        open_ = tl.sigmoid(g)
        gated = g * open_
        for_weight += dy * gated * normed
        d_gate = dy * scale * normed * (open_ + gated * (1 - open_))
        d_normed = dy * scale * gated
        d_total = root * (d_normed - normed * (tl.sum(d_normed * normed, 0) / width))
        for_skip += d_total * value
        place = token * width + column
        tl.store(grad_x + place, rounded(d_total, grad_x.dtype.element_ty), mask=inside)
        tl.store(grad_v + place, rounded(d_total * factor, grad_v.dtype.element_ty), mask=inside)
        tl.store(grad_gate + place, rounded(d_gate, grad_gate.dtype.element_ty), mask=inside)
    row = partial + tl.program_id(0).to(tl.int64) * (2 * width)
    tl.store(row + column, for_weight, mask=inside)
    tl.store(row + width + column, for_skip, mask=inside)


def launch_forward(x: Tensor, v: Tensor, skip: Tensor, gate: Tensor, weight: Tensor, eps: float, y: Tensor) -> None:
    """Fills y (tokens, width) from rows whose columns lie side by side."""
    tokens, width = x.shape
    with torch.cuda.device_of(x):
        _forward[(tokens,)](
            *(x, v, skip, gate, weight, y, width, width // len(skip), eps),
            *(x.stride(0), v.stride(0), gate.stride(0)),
            **_options(width),
        )


def launch_backward(
    grad: Tensor,
    operands: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    eps: float,
    gradients: tuple[Tensor, Tensor, Tensor],
    partial: Tensor,
) -> None:
    """Fills the gradients of x, v and the gate, and each program's sums (programs, 2 width)."""
    x, v, skip, gate, _ = operands
    tokens, width = x.shape
    with torch.cuda.device_of(x):
        _backward[(len(partial),)](
            *(grad, *operands, *gradients, partial, tokens, width, width // len(skip), eps),
            *(grad.stride(0), x.stride(0), v.stride(0), gate.stride(0), len(partial)),
            **_options(width),
        )


def _options(width: int) -> dict[str, int]:
    block = triton.next_power_of_2(width)
    return {"BLOCK": block, "num_warps": min(16, max(1, block // 256))}
