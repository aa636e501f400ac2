"""The same in plain PyTorch."""

from torch import Tensor


def mean_squares(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """As muse_kernels.row_column.mean_squares."""
    squares = matrix.float().square()
    return squares.mean(1), squares.mean(0)


def scale(matrix: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """As muse_kernels.row_column.scale_."""
    scaled = matrix.float() * rows.unsqueeze(1) * columns
    matrix.copy_(scaled)
    return scaled.square_().mean()
