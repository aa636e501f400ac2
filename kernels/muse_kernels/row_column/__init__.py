"""Sizes of a matrix's rows and columns, and a matrix scaled by row and column: what second moments by both need."""

from torch import Tensor

from muse_kernels.arguments import check_dimensions, check_floating, check_same_device, check_shape
from muse_kernels.implementation import Implementation, resolve
from muse_kernels.row_column import eager, launch

__all__ = ["mean_squares", "scale_"]


def mean_squares(matrix: Tensor, *, implementation: Implementation = "auto") -> tuple[Tensor, Tensor]:
    """The mean squares of each row (rows,) and of each column (columns,), float32, from one pass.

    Args:
        matrix: (rows, columns), floating, neither of them 0, any strides; one that is contiguous neither as it is nor
            transposed is copied.
    Memory: "triton" takes 4 bytes of scratch for each 256 values of a row and each 128 of a column (of the transpose,
        where that is contiguous); "eager" a float32 copy.
    Raises: ValueError on a tensor that is no matrix, or has no values.
    """
    check_dimensions("matrix", matrix, ["rows", "columns"])
    check_floating("matrix", matrix)
    if not matrix.numel():
        raise ValueError(f"matrix: has no values, its shape is {tuple(matrix.shape)}")
    if not matrix.is_contiguous() and matrix.t().is_contiguous():
        columns, rows = mean_squares(matrix.t(), implementation=implementation)
        return rows, columns
    run = launch.mean_squares if resolve(implementation, matrix) == "triton" else eager.mean_squares
    return run(matrix.contiguous())


def scale_(matrix: Tensor, rows: Tensor, columns: Tensor, *, implementation: Implementation = "auto") -> Tensor:
    """matrix_ij = rows_i matrix_ij columns_j, in place; returns the mean of its squares, a float32 scalar.

    The squares are those of the products in float32, before they are rounded to the matrix's dtype.

    Args:
        matrix: (rows, columns), floating, with values; updated. Contiguous, or the transpose of what is.
        rows: (rows,), float32. columns: (columns,), float32.
    Memory: "triton" takes 4 bytes for each 4,096 values; "eager" a float32 copy.
    Raises: ValueError on a shape or device mismatch, or a matrix that has no values or is not dense.
    """
    check_dimensions("matrix", matrix, ["rows", "columns"])
    check_floating("matrix", matrix)
    check_shape("rows", rows, matrix.shape[:1])
    check_shape("columns", columns, matrix.shape[1:])
    check_same_device(matrix=matrix, rows=rows, columns=columns)
    if not matrix.numel():
        raise ValueError(f"matrix: has no values, its shape is {tuple(matrix.shape)}")
    if not matrix.is_contiguous():
        if not matrix.t().is_contiguous():
            raise ValueError("matrix: must be contiguous, or the transpose of what is, for it is updated in place")
        matrix, rows, columns = matrix.t(), columns, rows
    run = launch.scale if resolve(implementation, matrix) == "triton" else eager.scale
    return run(matrix, rows.contiguous(), columns.contiguous())
