"""Rows of a tensor-train table, gathered chunk by chunk; the backward gathers again: only ids are saved."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from muse_kernels.chunks import chunk_length, slices
from muse_kernels.precision import accumulation_dtype
from muse_kernels.tensor_train import as_matrices, rotate, rotate_backward


class TTEmbedding(torch.autograd.Function):
    """Saves ids; the cores and theta are parameters and saved by reference."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, core1: Tensor, core2: Tensor, theta: Tensor, d_model: int) -> Tensor:
        ctx.save_for_backward(ids, core1, core2, theta)
        rotated, v2 = rotate(core2, theta), core2.shape[0]
        flat = ids.reshape(-1)
        rows = core1.new_empty(flat.shape[0], d_model)
        for part in _chunks(rows, core1, core2):
            left = core1.index_select(0, flat[part] // v2)  # (chunk, rank, d1)
            right = rotated.index_select(0, flat[part] % v2)  # (chunk, rank, d2)
            rows[part] = (left.transpose(1, 2) @ right).flatten(1)[:, :d_model]
            del left, right  # before the next chunk
        return rows.view(*ids.shape, d_model)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor, Tensor, None]:
        ids, core1, core2, theta = ctx.saved_tensors
        rotated, v2, wide = rotate(core2, theta), core2.shape[0], accumulation_dtype(core1.dtype)
        flat, grad_rows = ids.reshape(-1), grad.reshape(-1, grad.shape[-1])
        grad_core1 = torch.zeros(core1.shape, dtype=wide, device=core1.device)
        grad_rotated = torch.zeros(core2.shape, dtype=wide, device=core2.device)
        for part in _chunks(grad_rows, core1, core2):
            first, second = flat[part] // v2, flat[part] % v2
            outer = as_matrices(grad_rows[part], core1.shape[-1], core2.shape[-1])  # (chunk, d1, d2)
            _add_rows_(grad_core1, first, rotated.index_select(0, second) @ outer.transpose(1, 2))
            _add_rows_(grad_rotated, second, core1.index_select(0, first) @ outer)
            del outer  # before the next chunk
        grad_core2, grad_theta = rotate_backward(grad_rotated, core2, theta)
        return None, grad_core1.to(core1.dtype), grad_core2, grad_theta, None


def _add_rows_(total: Tensor, ids: Tensor, rows: Tensor) -> None:
    """total[ids] += rows, in the dtype of the total; repeated ids add up."""
    total.index_add_(0, ids, rows.to(total.dtype))


def _chunks(rows: Tensor, core1: Tensor, core2: Tensor) -> Iterator[slice]:
    """Slices of the tokens whose gathered cores and outer products take about the bytes of the rows."""
    rank, d1, d2 = core1.shape[1], core1.shape[2], core2.shape[2]
    token_bytes = core1.element_size() * (d1 * d2 + rank * (d1 + d2))
    row_bytes = core1.element_size() * rows.shape[0] * rows.shape[1]
    return slices(rows.shape[0], chunk_length(rows.shape[0], token_bytes, row_bytes))
