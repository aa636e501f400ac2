"""Tensors as the matrices of rows that kernels read."""

from torch import Tensor

MAX_OFFSET = 2**31 - 1


def as_rows(x: Tensor) -> Tensor:
    """(*, width) -> (rows, width), any strides; a copy where no two strides do, or columns lie 2**31 elements apart."""
    rows = x.reshape(-1, x.shape[-1]) if x.numel() else x.new_empty(x.shape[:-1].numel(), x.shape[-1])
    return rows if rows.stride(1) * rows.shape[1] <= MAX_OFFSET else rows.contiguous()
