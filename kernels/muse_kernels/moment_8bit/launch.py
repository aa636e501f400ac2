"""The same steps by kernels: what they allocate, and their launches, none of which happens on meta."""

import torch
from torch import Tensor

from muse_kernels.implementation import launches
from muse_kernels.moment_8bit.rates import Rates

MOST_PROGRAMS, ROWS = 256, 32
LARGEST_SMALL = 16_384


def direction(moment: tuple[Tensor, Tensor], gradient: Tensor, count: Tensor, momentum: float, out: Tensor) -> None:
    """As muse_kernels.moment_8bit.direction_8bit_."""
    if launches(out):
        from muse_kernels.moment_8bit import kernel

        kernel.direction(moment, gradient, count, momentum, out)


def rounded_step(parameter: Tensor, update: Tensor, count: Tensor, lr: Tensor, rates: Rates) -> None:
    """As muse_kernels.moment_8bit.rounded_step_."""
    if launches(parameter):
        from muse_kernels.moment_8bit import kernel

        kernel.rounded_step(parameter, update, count, lr, rates)


def factored_step(
    parameter: Tensor,
    gradient: Tensor,
    moment: tuple[Tensor, Tensor],
    second: tuple[Tensor, Tensor],
    count: Tensor,
    lr: Tensor,
    rates: Rates,
) -> None:
    """As muse_kernels.moment_8bit.factored_step_8bit_."""
    rows, columns = (len(part) for part in second)
    programs = max(1, min(MOST_PROGRAMS, -(-rows // ROWS)))
    partial = torch.empty(programs, columns, dtype=torch.float32, device=parameter.device)
    if launches(parameter):
        from muse_kernels.moment_8bit import kernel

        kernel.second_moments(gradient, second, count, partial, rates)
        kernel.factored_step(parameter, gradient, moment, second, count, lr, rates)


def small_step(
    parameter: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor], count: Tensor, lr: Tensor, rates: Rates
) -> None:
    """As muse_kernels.moment_8bit.small_step_."""
    if parameter.numel() > LARGEST_SMALL:
        raise ValueError(f"parameter: {parameter.numel()} values are more than one program takes, {LARGEST_SMALL}")
    if launches(parameter):
        from muse_kernels.moment_8bit import kernel

        kernel.small_step(parameter, gradient, moments, count, lr, rates)


def combine(x: Tensor, y: Tensor, z: Tensor, factors: tuple[float, float, float]) -> None:
    """As muse_kernels.moment_8bit.combine_."""
    if launches(x):
        from muse_kernels.moment_8bit import kernel

        kernel.combine(x, y.contiguous(), z.contiguous(), factors)
