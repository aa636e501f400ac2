"""Tensor-train tables: their shapes, and the rotation of the second core.

E[i] = crop(flatten(sum_r core1[i // v2, r, :] (x) cos(theta_r) core2[i % v2, r, :])), (x) the outer product.
"""

import math

from torch import Tensor
from torch.nn import functional

from muse_kernels.arguments import (
    check_dimensions,
    check_dtype,
    check_floating,
    check_positive,
    check_same_device,
    check_shape,
)
from muse_kernels.precision import accumulation_dtype


def tt_shape(size: int) -> tuple[int, int]:
    """The two factors of a tensor-train mode: (ceil(sqrt(size)), ceil(size / ceil(sqrt(size)))).

    Their product is at least size; the excess is cropped.

    Raises: ValueError if size is less than 1.
    """
    check_positive("size", size)
    first = math.isqrt(size - 1) + 1
    return first, -(-size // first)


def check_cores(core1: Tensor, core2: Tensor, theta: Tensor, vocab_size: int, d_model: int) -> None:
    """The cores fit a (vocab_size, d_model) table, share a floating dtype and a device."""
    check_positive("vocab_size", vocab_size)
    check_positive("d_model", d_model)
    check_dimensions("theta", theta, ["rank"])
    check_floating("core1", core1)
    (v1, v2), (d1, d2), rank = tt_shape(vocab_size), tt_shape(d_model), theta.shape[0]
    check_shape("core1", core1, (v1, rank, d1))
    check_shape("core2", core2, (v2, rank, d2))
    check_dtype("core2", core2, [core1.dtype])
    check_dtype("theta", theta, [core1.dtype])
    check_same_device(core1=core1, core2=core2, theta=theta)


def rotate(core2: Tensor, theta: Tensor) -> Tensor:
    """cos(theta_r) core2[j, r, b], rounded once to the dtype of core2."""
    wide = accumulation_dtype(core2.dtype)
    return (core2.to(wide) * theta.to(wide).cos().unsqueeze(-1)).to(core2.dtype)


def rotate_backward(grad: Tensor, core2: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of core2 and theta from the float32 gradient of the rotated core; grad is overwritten."""
    angle = theta.to(grad.dtype)
    grad_theta = -angle.sin() * (grad * core2).sum((0, 2))
    grad_core2 = grad.mul_(angle.cos().unsqueeze(-1))
    return grad_core2.to(core2.dtype), grad_theta.to(theta.dtype)


def as_matrices(rows: Tensor, d1: int, d2: int) -> Tensor:
    """(rows, d_model) -> (rows, d1, d2), zero past d_model: the crop of a tensor-train row, undone."""
    excess = d1 * d2 - rows.shape[-1]
    padded = functional.pad(rows, (0, excess)) if excess else rows.contiguous()
    return padded.view(-1, d1, d2)
