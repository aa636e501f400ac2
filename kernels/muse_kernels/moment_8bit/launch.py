"""Launches of the kernels, and what they allocate; on meta nothing else happens."""

import torch
from torch import Tensor

from muse_kernels.implementation import launches

MOST_PROGRAMS, ROWS = 256, 32
Scalars = tuple[Tensor, Tensor, Tensor]


def launch_direction(moment: tuple[Tensor, Tensor], gradient: Tensor, momentum: float, out: Tensor) -> None:
    """Updates the moment and fills out."""
    if launches(out):
        from muse_kernels.moment_8bit import kernel

        kernel.direction(moment, gradient, momentum, out)


def launch_factored_step(
    parameter: Tensor,
    moment: tuple[Tensor, Tensor],
    gradient: Tensor,
    factors: tuple[Tensor, Tensor],
    momentum: float,
    scalars: Scalars,
) -> None:
    """Updates the moment and the parameter."""
    if launches(parameter):
        from muse_kernels.moment_8bit import kernel

        kernel.factored_step(parameter, moment, gradient, factors, momentum, scalars)


def launch_rounded_step(parameter: Tensor, update: Tensor, scalars: Scalars) -> None:
    """Updates the parameter."""
    if launches(parameter):
        from muse_kernels.moment_8bit import kernel

        kernel.rounded_step(parameter, update, scalars)


def launch_mean_squares(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The mean squares of rows and columns, from sums that programs leave for the columns."""
    rows, columns = matrix.shape
    by_row = torch.empty(rows, dtype=torch.float32, device=matrix.device)
    by_column = torch.empty(columns, dtype=torch.float32, device=matrix.device)
    partial = torch.empty(
        max(1, min(MOST_PROGRAMS, -(-rows // ROWS))), columns, dtype=torch.float32, device=matrix.device
    )
    if launches(matrix):
        from muse_kernels.moment_8bit import kernel
        from muse_kernels.partials import sum_partials

        kernel.mean_squares(matrix, by_row, partial)
        sum_partials(partial, by_column)
    return by_row, by_column
