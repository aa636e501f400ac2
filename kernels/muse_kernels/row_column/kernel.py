"""Triton kernels: one reads a matrix once for the squares of its rows and columns, one scales it in place."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from muse_kernels.products import rounded


@triton.jit
def _squares(matrix, by_row, by_column, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILES: tl.constexpr):
    """A strip of tiles, one below the other: the sums of squares of its parts of rows, and of its columns."""
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    totals = tl.zeros((COLUMNS,), tl.float32)
    for tile in range(TILES):
        row = (tl.program_id(0) * TILES + tile) * ROWS + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        value = tl.load(matrix + row.to(tl.int64)[:, None] * columns + column[None, :], mask=inside, other=0.0)
        squares = value.to(tl.float32) * value.to(tl.float32)
        totals += tl.sum(squares, 0)
        tl.store(by_row + row * tl.num_programs(1) + tl.program_id(1), tl.sum(squares, 1), mask=row < rows)
    tl.store(by_column + tl.program_id(0) * columns + column, totals, mask=column < columns)


@triton.jit
def _scale(matrix, by_row, by_column, squares, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A tile of the matrix, and the sum of its squares."""
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    place = matrix + row.to(tl.int64)[:, None] * columns + column[None, :]
    value = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    value = value * tl.load(by_row + row, mask=row < rows, other=0.0)[:, None]
    value = value * tl.load(by_column + column, mask=column < columns, other=0.0)[None, :]
    tl.store(place, rounded(value, matrix.dtype.element_ty), mask=inside)
    total = tl.sum(tl.sum(value * value, 1), 0)
    tl.store(squares + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1), total)


def squares(matrix: Tensor, by_row: Tensor, by_column: Tensor, sizes: tuple[int, int, int]) -> None:
    """Fills by_row (rows, strips) and by_column (strips, columns) with sums; sizes: rows, columns and tiles a strip."""
    height, width, tiles = sizes
    with torch.cuda.device_of(matrix):
        _squares[(len(by_column), by_row.shape[1])](
            *(matrix, by_row, by_column, *matrix.shape), ROWS=height, COLUMNS=width, TILES=tiles
        )


def scale(matrix: Tensor, rows: Tensor, columns: Tensor, squares: Tensor, sizes: tuple[int, int]) -> None:
    """Scales in place; each tile of these rows and columns leaves its sum of squares in squares."""
    height, width = sizes
    with torch.cuda.device_of(matrix):
        _scale[tuple(squares.shape)](matrix, rows, columns, squares, *matrix.shape, ROWS=height, COLUMNS=width)
