"""The same by kernels: what they allocate, and their launches, none of which happens on meta."""

import torch
from torch import Tensor

from muse_kernels.implementation import launches

TILE = 16, 256  # rows and columns that a program has at once
TILES = 8  # of a strip, whose rows and columns are summed


def mean_squares(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """As muse_kernels.row_column.mean_squares, of a contiguous matrix."""
    rows, columns = matrix.shape
    strips = -(-rows // (TILE[0] * TILES)), -(-columns // TILE[1])
    by_row = torch.empty(rows, strips[1], dtype=torch.float32, device=matrix.device)
    by_column = torch.empty(strips[0], columns, dtype=torch.float32, device=matrix.device)
    if launches(matrix):
        from muse_kernels.row_column import kernel

        kernel.squares(matrix, by_row, by_column, (*TILE, TILES))
    return by_row.sum(1).div_(columns), by_column.sum(0).div_(rows)


def scale(matrix: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """As muse_kernels.row_column.scale_, of a contiguous matrix."""
    tiles = -(-matrix.shape[0] // TILE[0]), -(-matrix.shape[1] // TILE[1])
    squares = torch.empty(tiles, dtype=torch.float32, device=matrix.device)
    if launches(matrix):
        from muse_kernels.row_column import kernel

        kernel.scale(matrix, rows, columns, squares, TILE)
    return squares.sum().div_(matrix.numel())
