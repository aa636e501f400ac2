"""Linear layer with INT8 weights by Triton kernels, which convert the weight tile by tile: one launch each way."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from muse_kernels.implementation import launches
from muse_kernels.rows import as_rows


class FusedInt8Linear(torch.autograd.Function):
    """Saves the INT8 weight and its scale, by reference; not x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_int8: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight_int8, scale)
        y = x.new_empty(*x.shape[:-1], weight_int8.shape[0])
        if launches(y):
            from muse_kernels.int8_linear.kernel import launch_forward

            launch_forward(as_rows(x), weight_int8, scale, bias, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor | None]:
        weight_int8, scale = ctx.saved_tensors
        rows = as_rows(grad)
        grad_x = grad_bias = None
        if ctx.needs_input_grad[3]:
            grad_bias = rows.sum(0)
        if ctx.needs_input_grad[0]:
            grad_x = grad.new_empty(*grad.shape[:-1], weight_int8.shape[1])
            if launches(grad_x):
                from muse_kernels.int8_linear.kernel import launch_backward

                launch_backward(rows, weight_int8, scale, grad_x)
        return grad_x, None, None, grad_bias
