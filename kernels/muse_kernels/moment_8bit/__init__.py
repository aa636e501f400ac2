"""Steps of optimizers whose first moment is kept in 8 bits, and whose 16-bit weights are rounded at random.

All of them count on the device: `count` is an int64 scalar that a step raises by one, and the random bits follow from
it, so that a captured CUDA graph goes on from where it is.
"""

from dataclasses import dataclass

from torch import Tensor

from muse_kernels.arguments import check_dimensions, check_floating, check_same_device, check_shape
from muse_kernels.implementation import Implementation, resolve
from muse_kernels.moment_8bit import eager, launch
from muse_kernels.moment_8bit.blocks import BLOCK, new_moment
from muse_kernels.moment_8bit.rates import Rates

__all__ = [
    "BLOCK",
    "FactoredState",
    "Rates",
    "SmallState",
    "combine_",
    "direction_8bit_",
    "factored_step_8bit_",
    "new_moment",
    "rounded_step_",
    "small_step_",
]


@dataclass(frozen=True, slots=True)
class SmallState:
    """Both moments of a small parameter, in float32 and its shape, and the steps so far."""

    first: Tensor
    second: Tensor
    count: Tensor


@dataclass(frozen=True, slots=True)
class FactoredState:
    """A first moment in 8 bits, mean squares by row and by column in float32, and the steps so far."""

    moment: tuple[Tensor, Tensor]
    rows: Tensor
    columns: Tensor
    count: Tensor


def direction_8bit_(
    moment: tuple[Tensor, Tensor],
    gradient: Tensor,
    count: Tensor,
    *,
    momentum: float,
    out: Tensor,
    implementation: Implementation = "auto",
) -> Tensor:
    """m = momentum m + (1 - momentum) gradient, kept in 8 bits; out = momentum m + (1 - momentum) gradient.

    Args:
        moment: (steps, scale) of `new_moment`; updated. A block of 256 values is steps in [-127, 127] times a scale.
        gradient: floating, of any shape, contiguous.
        count: int64 scalar; raised by one.
        out: as gradient, of any floating dtype, contiguous; filled from m before it is rounded to its steps.
    Returns: out.
    Memory: "triton" takes no scratch; "eager" some float32 copies of 2^18 values.
    Raises: ValueError on a shape or device mismatch, or a gradient that is not contiguous.
    Source: Dettmers et al. 2022, arXiv:2110.02861 (block-wise 8-bit state).
    """
    _check(moment, gradient)
    check_shape("out", out, gradient.shape)
    run = launch.direction if _triton(implementation, gradient, out) else eager.direction
    run(moment, gradient, count, momentum, out)
    return out


def rounded_step_(
    parameter: Tensor,
    update: Tensor,
    count: Tensor,
    *,
    lr: Tensor,
    rates: Rates,
    implementation: Implementation = "auto",
) -> None:
    """parameter = (1 - lr decay) parameter - lr scale update; a bfloat16 is rounded up or down at random.

    Args:
        parameter: floating, contiguous; updated.
        update: of its shape, floating; a matrix may have any strides.
        count: int64 scalar that seeds the random bits, with rates.salt.
        lr: float32 scalar on the device.
    Memory: "triton" takes no scratch; "eager" some float32 copies of 2^18 values.
    Raises: ValueError on a shape or device mismatch.
    """
    check_floating("update", update)
    check_shape("update", update, parameter.shape)
    check_same_device(parameter=parameter, update=update, count=count, lr=lr)
    run = launch.rounded_step if _triton(implementation, update, parameter) else eager.rounded_step
    run(parameter, update, count, lr, rates)


def factored_step_8bit_(
    parameter: Tensor,
    gradient: Tensor,
    state: FactoredState,
    *,
    lr: Tensor,
    rates: Rates,
    implementation: Implementation = "auto",
) -> None:
    """Adam with an 8-bit first moment m and a second moment v kept by row and column.

    v_ij = rows_i columns_j / mean(columns), both running means of squares with beta2; u = m / (1 - momentum^count) /
    sqrt(v / (1 - beta2^count)), shrunk in each block of 256 to a root mean square of at most 1; then as rounded_step_.

    Args:
        parameter: floating, contiguous; updated. Its first dimension makes the rows, the others together the columns.
        gradient: of its shape, floating, contiguous.
        state: updated.
    Memory: "triton" takes min(256, ceil(rows / 32)) * columns * 4 bytes of scratch; "eager" float32 copies.
    Raises: ValueError on a shape or device mismatch, or a gradient that is not contiguous.
    Source: Shazeer and Stern 2018, arXiv:1804.04235 (factored moments, clipping); Dettmers et al. 2022,
        arXiv:2110.02861 (8-bit state).
    """
    _check(state.moment, gradient)
    check_shape("parameter", parameter, gradient.shape)
    check_shape("rows", state.rows, gradient.shape[:1])
    check_shape("columns", state.columns, (gradient[0].numel(),))
    run = launch.factored_step if _triton(implementation, gradient, parameter) else eager.factored_step
    run(parameter, gradient, state.moment, (state.rows, state.columns), state.count, lr, rates)


def small_step_(
    parameter: Tensor,
    gradient: Tensor,
    state: SmallState,
    *,
    lr: Tensor,
    rates: Rates,
    implementation: Implementation = "auto",
) -> None:
    """Adam with both moments in float32, the update shrunk to a root mean square of at most 1; one launch.

    Args:
        parameter: floating, contiguous, at most 16,384 values for "triton"; updated as in rounded_step_.
        gradient: of its shape, floating, contiguous.
        state: updated.
    Memory: "triton" takes no scratch; "eager" a few float32 copies.
    Raises: ValueError on a shape or device mismatch, or too many values.
    """
    check_floating("gradient", gradient)
    check_shape("parameter", parameter, gradient.shape)
    check_dimensions("count", state.count, [])
    for name, tensor in (("first", state.first), ("second", state.second)):
        check_shape(name, tensor, gradient.shape)
    run = launch.small_step if _triton(implementation, gradient, parameter) else eager.small_step
    run(parameter, gradient, (state.first, state.second), state.count, lr, rates)


def combine_(
    x: Tensor,
    y: Tensor,
    z: Tensor,
    factors: tuple[float, float, float],
    *,
    implementation: Implementation = "auto",
) -> Tensor:
    """x = a x + b y + c z in one pass, summed in float32; factors are (a, b, c).

    Args:
        x: floating, contiguous; updated. y, z: as x.
    Returns: x.
    Memory: "triton" takes no scratch; "eager" a copy.
    Raises: ValueError on a shape mismatch.
    """
    for name, tensor in (("y", y), ("z", z)):
        check_shape(name, tensor, x.shape)
    run = launch.combine if _triton(implementation, x, y, z) else eager.combine
    run(x, y, z, factors)
    return x


def _check(moment: tuple[Tensor, Tensor], gradient: Tensor) -> None:
    check_floating("gradient", gradient)
    check_shape("moment", moment[0], (-(-gradient.numel() // BLOCK), BLOCK))
    check_same_device(gradient=gradient, steps=moment[0], scale=moment[1])
    if not gradient.is_contiguous():
        raise ValueError("gradient: must be contiguous")


def _triton(implementation: Implementation, *operands: Tensor) -> bool:
    return resolve(implementation, *operands) == "triton"
