"""Feed-forward of low rank by Triton kernels: one launch forward; two, or four, and two products backward."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from muse_kernels.implementation import launches
from muse_kernels.low_rank_ffn.activation import Activation
from muse_kernels.rows import as_rows

MAX_RANK = 256
# For the 132 multiprocessors of an H200. Constants, so that sums do not depend on the GPU, and a trace sees the same
# scratch (but before compute capability 8.0, which takes smaller blocks).
PROGRAMS = 132
WIDE_BLOCK = 64
MIN_SPLIT = 512


class FusedLowRankFFN(torch.autograd.Function):
    """Saves x and the narrow pre-activations.

    To recompute these would take another reading of x; they are rank / d_model of its bytes, or twice that.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: Activation, *parameters: Tensor) -> Tensor:
        parameters = tuple(parameter.contiguous() for parameter in parameters)
        rows, rank = as_rows(x), parameters[0].shape[0]
        y = x.new_empty(x.shape)
        narrow = [x.new_empty(rows.shape[0], rank) for _ in range(len(parameters) // 4)]
        if launches(y):
            from muse_kernels.low_rank_ffn.launch import launch_forward

            outputs = (y, narrow[0], narrow[-1])
            block = token_block(rank, rows)
            launch_forward(rows, parameters, activation == "gelu", outputs, block)
        ctx.save_for_backward(x, *narrow, *parameters)
        ctx.activation = activation
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        count = 1 if len(saved) == 5 else 2
        narrow, parameters = saved[:count], tuple(saved[count:])
        # Products take no expanded gradient, as that of a sum is, nor rows with gaps.
        rows, grad = as_rows(x).contiguous(), as_rows(grad).contiguous()
        gelu = ctx.activation == "gelu"
        grad_x, hidden, grads, grad_biases = _backward_tokens(grad, narrow, parameters, gelu)
        grad_middle: tuple[Tensor | None, ...] = ()
        if count == 2:
            up, down, up_bias = _backward_wide(hidden[0], grads[-1], parameters[2:6], gelu)
            grad_middle = (up, up_bias, down, grad_biases[1])
        needs = ctx.needs_input_grad
        first = grads[0].t() @ rows if needs[2] else None
        last = grad.t() @ hidden[-1] if needs[-2] else None
        return grad_x.view(x.shape), None, first, grad_biases[-1], *grad_middle, last, grad_biases[0]


def largest_block(rank: int, x: Tensor) -> int:
    """Tokens of a tile whose values fit the registers; 16 without matrix units, before compute capability 8.0."""
    if x.is_cuda and torch.cuda.get_device_properties(x.device).major < 8:
        return 16
    return (32 if x.dtype == torch.float32 else 64) // (2 if rank > 128 else 1)


def token_block(rank: int, x: Tensor) -> int:
    """Tokens of a program: the most that leave a program for almost each multiprocessor, at least 16."""
    largest = largest_block(rank, x)
    return next((block for block in (64, 32) if block <= largest and x.shape[0] > block * (PROGRAMS - 8)), 16)


def splits(tokens: int, wide: int) -> tuple[int, int]:
    """Shares of the wide layers' gradients, and the tokens of each: two programs a multiprocessor, no tiny shares."""
    wanted = max(1, 2 * PROGRAMS // max(1, _ceil_divide(wide, WIDE_BLOCK)))
    split_tokens = max(MIN_SPLIT, _ceil_divide(_ceil_divide(tokens, wanted), 64) * 64)
    return _ceil_divide(tokens, split_tokens), split_tokens


def _backward_tokens(
    grad: Tensor, narrow: list[Tensor], parameters: tuple[Tensor, ...], gelu: bool
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """grad_x; of each narrow layer the hidden vectors and the gradient; gradients of all biases but the wide one,
    the last first."""
    (tokens, width), rank = grad.shape, parameters[0].shape[0]
    block = token_block(rank, grad)
    grad_x = torch.empty_like(grad)
    hidden, grads = ([torch.empty_like(layer) for layer in narrow] for _ in range(2))
    biases = [parameters[-1], *[parameters[1]] * len(narrow)]
    grad_biases, partial = _sums(biases, _ceil_divide(tokens, block), width + len(narrow) * rank)
    if launches(grad_x):
        from muse_kernels.low_rank_ffn.launch import launch_backward
        from muse_kernels.partials import sum_partials

        outputs = (grad_x, hidden[0], hidden[-1], grads[0], grads[-1])
        launch_backward(grad, parameters, gelu, (narrow[0], narrow[-1]), outputs, partial, block)
        sum_partials(partial, *grad_biases)
    return grad_x, hidden, grads, grad_biases


def _backward_wide(hidden: Tensor, grad: Tensor, middle: tuple[Tensor, ...], gelu: bool) -> list[Tensor]:
    """Gradients of the widening weight, the narrowing weight and the wide bias."""
    up, up_bias, down, _ = middle
    count, split_tokens = splits(hidden.shape[0], up.shape[0])
    sums, partial = _sums([up, down, up_bias], count, up.shape[0] * (2 * up.shape[1] + 1))
    if launches(hidden):
        from muse_kernels.low_rank_ffn.launch import launch_wide_weights
        from muse_kernels.partials import sum_partials

        block = largest_block(up.shape[1], hidden)
        launch_wide_weights(hidden, grad, middle, gelu, partial, split_tokens, block)
        sum_partials(partial, *sums)
    return sums


def _sums(parameters: list[Tensor], shares: int, numbers: int) -> tuple[list[Tensor], Tensor]:
    """Gradients to fill, zero if there are no shares to sum; and room for the shares (shares, numbers)."""
    new = torch.empty_like if shares else torch.zeros_like
    partial = torch.empty(shares, numbers, dtype=torch.float32, device=parameters[0].device)
    return [new(parameter) for parameter in parameters], partial


def _ceil_divide(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)
