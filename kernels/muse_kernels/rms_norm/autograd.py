"""RMSNorm, optionally after a residual sum, by chunks of rows; the backward normalises again."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from muse_kernels.chunks import chunk_length, slices
from muse_kernels.precision import accumulation_dtype


class RMSNorm(torch.autograd.Function):
    """Saves the normalised input (which a caller with a residual holds anyway) and one rstd a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        y, rstd = _forward(x, weight, eps)
        ctx.save_for_backward(x, weight, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        return *_backward(grad, None, *ctx.saved_tensors), None


class ResidualRMSNorm(torch.autograd.Function):
    """Returns the norm of x + residual and the sum itself; saves the sum and one rstd a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        total = x + residual
        y, rstd = _forward(total, weight, eps)
        ctx.save_for_backward(total, weight, rstd)
        ctx.set_materialize_grads(False)
        return y, total

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Tensor | None, grad_total: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        if grad is None:
            return grad_total, grad_total, None, None
        grad_x, grad_weight = _backward(grad, grad_total, *ctx.saved_tensors)
        return grad_x, grad_x, grad_weight, None


def _forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norm of each row and its reciprocal root mean square (rows,)."""
    rows, wide = x.reshape(-1, x.shape[-1]), accumulation_dtype(x.dtype)
    y = x.new_empty(rows.shape)
    rstd = torch.linalg.vector_norm(rows, dim=-1, dtype=wide)
    rstd.square_().div_(rows.shape[1]).add_(eps).rsqrt_()
    for part in _chunks(rows, 1):
        y[part] = _normal(rows[part], rstd[part]).mul_(weight)
    return y.view(x.shape), rstd


def _backward(
    grad: Tensor, grad_total: Tensor | None, x: Tensor, weight: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the input, grad_total included, and of the weight."""
    rows, grad_rows = x.reshape(-1, x.shape[-1]), grad.reshape(-1, x.shape[-1])
    grad_x = x.new_empty(rows.shape)
    grad_weight = torch.zeros(weight.shape, dtype=rstd.dtype, device=weight.device)
    for part in _chunks(rows, 3):
        inner = _backward_chunk(grad_rows[part], rows[part], rstd[part], weight, grad_weight)
        grad_x[part] = inner if grad_total is None else inner.add_(grad_total.reshape(rows.shape)[part])
        del inner
    return grad_x.view(x.shape), grad_weight.to(weight.dtype)


def _backward_chunk(grad: Tensor, rows: Tensor, rstd: Tensor, weight: Tensor, grad_weight: Tensor) -> Tensor:
    """Gradient of the rows: rstd * (w g - n mean(n w g)), where n = rows * rstd; adds to grad_weight."""
    normal = _normal(rows, rstd)
    inner = grad.to(rstd.dtype, copy=True)
    product = normal * inner
    grad_weight.add_(product.sum(0))
    mean = product.mul_(weight).mean(-1, keepdim=True)
    return inner.mul_(weight).addcmul_(normal, mean, value=-1).mul_(rstd.unsqueeze(-1))


def _normal(rows: Tensor, rstd: Tensor) -> Tensor:
    return rows.to(rstd.dtype, copy=True).mul_(rstd.unsqueeze(-1))


def _chunks(rows: Tensor, buffers: int) -> Iterator[slice]:
    """Slices of the rows that fit this many float32 buffers into about the bytes of the rows."""
    count, width = rows.shape
    row_bytes = buffers * width * accumulation_dtype(rows.dtype).itemsize
    return slices(count, chunk_length(count, row_bytes, rows.element_size() * count * width))
