"""Steps of optimizers whose first moment is kept in 8 bits, and whose 16-bit weights are rounded at random."""

from torch import Tensor

from muse_kernels.arguments import check_dimensions, check_floating, check_same_device, check_shape
from muse_kernels.implementation import Implementation, resolve
from muse_kernels.moment_8bit import eager
from muse_kernels.moment_8bit.blocks import BLOCK, new_moment
from muse_kernels.precision import accumulation_dtype

__all__ = ["BLOCK", "direction_8bit", "factored_step_8bit_", "mean_squares", "new_moment", "rounded_step_"]


def direction_8bit(
    moment: tuple[Tensor, Tensor],
    gradient: Tensor,
    *,
    momentum: float,
    out: Tensor,
    implementation: Implementation = "auto",
) -> Tensor:
    """m = momentum m + (1 - momentum) gradient, kept in 8 bits; out = momentum m + (1 - momentum) gradient (Nesterov's).

    Args:
        moment: (steps, scale) of `new_moment`; updated. A block of 256 values is steps in [-127, 127] times a scale.
        gradient: floating, of any shape, contiguous.
        out: as gradient, of any floating dtype, contiguous; filled from m before it is rounded to its steps.
    Returns: out.
    Memory: "triton" takes no scratch; "eager" some float32 copies of 2^18 values.
    Raises: ValueError on a shape, dtype or device mismatch.
    Source: Dettmers et al. 2022, arXiv:2110.02861 (block-wise 8-bit state).
    """
    _check(moment, gradient)
    check_shape("out", out, gradient.shape)
    if _resolved(implementation, gradient, out) == "triton":
        from muse_kernels.moment_8bit.launch import launch_direction

        launch_direction(moment, gradient, momentum, out)
    else:
        eager.direction(moment, gradient, momentum, out)
    return out


def mean_squares(matrix: Tensor, *, implementation: Implementation = "auto") -> tuple[Tensor, Tensor]:
    """The mean square of each row and of each column, float32 (float64 for float64), in one reading.

    Args:
        matrix: (rows, columns), floating, contiguous.
    Returns: (rows,) and (columns,).
    Memory: "triton" takes min(256, ceil(rows / 32)) * columns * 4 bytes of scratch; "eager" a float32 copy.
    Raises: ValueError on a matrix that is not floating or not contiguous.
    """
    check_floating("matrix", matrix)
    check_dimensions("matrix", matrix, ["rows", "columns"])
    if not matrix.is_contiguous():
        raise ValueError("matrix: must be contiguous")
    if _resolved(implementation, matrix) == "triton":
        from muse_kernels.moment_8bit.launch import launch_mean_squares

        return launch_mean_squares(matrix)
    squares = matrix.to(accumulation_dtype(matrix.dtype)).square()
    return squares.mean(1), squares.mean(0)


def factored_step_8bit_(
    parameter: Tensor,
    moment: tuple[Tensor, Tensor],
    gradient: Tensor,
    factors: tuple[Tensor, Tensor],
    *,
    momentum: float,
    rate: Tensor,
    decay: Tensor,
    seed: Tensor,
    implementation: Implementation = "auto",
) -> None:
    """Follows the moment as direction_8bit, and moves the parameter against m * row factor * column factor.

    parameter = (1 - decay) parameter - rate * u, where u is m times its factors, and shrunk in each block of 256 to
    a root mean square of at most 1.

    Args:
        parameter: floating, contiguous; updated. A bfloat16 is rounded up or down at random, by how near each is.
        moment: (steps, scale) of `new_moment`; updated.
        gradient: of the parameter's shape, contiguous.
        factors: (rows,) and (columns,), float32, of the gradient seen as rows x columns values.
        rate, decay, seed: scalars on the device, float32, float32 and int64: a captured CUDA graph reads them anew.
    Memory: "triton" takes no scratch; "eager" some float32 copies of 2^18 values.
    Raises: ValueError on a shape, dtype or device mismatch.
    """
    _check(moment, gradient)
    check_shape("parameter", parameter, gradient.shape)
    if factors[0].numel() * factors[1].numel() != gradient.numel():
        sizes = f"{factors[0].numel()} x {factors[1].numel()}"
        raise ValueError(f"factors: {sizes} do not make the {gradient.numel()} values of the gradient")
    if _resolved(implementation, gradient, parameter) == "triton":
        from muse_kernels.moment_8bit.launch import launch_factored_step

        launch_factored_step(parameter, moment, gradient, factors, momentum, (rate, decay, seed))
    else:
        eager.factored_step(parameter, moment, gradient, factors, momentum, (rate, decay))


def rounded_step_(
    parameter: Tensor,
    update: Tensor,
    *,
    rate: Tensor,
    decay: Tensor,
    seed: Tensor,
    implementation: Implementation = "auto",
) -> None:
    """parameter = (1 - decay) parameter - rate * update, a bfloat16 rounded at random.

    Args:
        parameter: floating, contiguous; updated.
        update: of its shape, floating, of any strides of a matrix.
        rate, decay, seed: as in factored_step_8bit_.
    Memory: "triton" takes no scratch; "eager" some float32 copies of 2^18 values.
    Raises: ValueError on a shape or device mismatch.
    """
    check_floating("update", update)
    check_shape("update", update, parameter.shape)
    check_same_device(parameter=parameter, update=update)
    if _resolved(implementation, update, parameter) == "triton":
        from muse_kernels.moment_8bit.launch import launch_rounded_step

        launch_rounded_step(parameter, update, (rate, decay, seed))
    else:
        eager.rounded_step(parameter, update, (rate, decay))


def _check(moment: tuple[Tensor, Tensor], gradient: Tensor) -> None:
    check_floating("gradient", gradient)
    check_shape("moment", moment[0], (-(-gradient.numel() // BLOCK), BLOCK))
    check_same_device(gradient=gradient, steps=moment[0], scale=moment[1])
    if not gradient.is_contiguous():
        raise ValueError("gradient: must be contiguous")


def _resolved(implementation: Implementation, *operands: Tensor) -> str:
    chosen = resolve(implementation, *operands)
    return "triton" if chosen == "triton" else "eager"
