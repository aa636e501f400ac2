"""Linear layer with INT8 weights on CUDA: few rows by Triton kernels, which convert the weight tile by tile.

With many rows the product is bound by the matrix units, which the library keeps busier than a kernel that converts on
the way: panels of the weight are dequantised into one scratch, each for a whole product of the library.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from muse_kernels.chunks import slices
from muse_kernels.implementation import launches
from muse_kernels.int8_linear.autograd import weight_gradient
from muse_kernels.rows import as_rows

MANY_ROWS = 1024  # from which a panel is converted in less time than the library's product saves
PANEL_BYTES = 4 << 20  # stays in the second-level cache between its conversion and the product
LEAST_PANEL = 128  # output features, or input features in backward
TILE, TILES = 128, 256  # rows and columns of the library's tiles, and how many keep a large GPU busy


class FusedInt8Linear(torch.autograd.Function):
    """Saves the INT8 weight and its scale, by reference; x only for the weight's gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_int8: Tensor, scale: Tensor, bias: Tensor | None, straight_through: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(weight_int8, scale, x if ctx.needs_input_grad[4] else None)
        y = x.new_empty(*x.shape[:-1], weight_int8.shape[0])
        rows = as_rows(x)
        if panel := panel_length(rows, *weight_int8.shape):
            forward_panels(rows, weight_int8, scale, bias, y.view(rows.shape[0], -1), panel)
        elif launches(y):
            from muse_kernels.int8_linear.kernel import launch_forward

            launch_forward(rows, weight_int8, scale, bias, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight_int8, scale, x = ctx.saved_tensors
        rows = as_rows(grad)
        grad_x = grad_bias = None
        if ctx.needs_input_grad[3]:
            grad_bias = rows.sum(0)
        if ctx.needs_input_grad[0]:
            grad_x = grad.new_empty(*grad.shape[:-1], weight_int8.shape[1])
            if panel := panel_length(rows, *reversed(weight_int8.shape)):
                backward_panels(rows, weight_int8, scale, grad_x.view(rows.shape[0], -1), panel)
            elif launches(grad_x):
                from muse_kernels.int8_linear.kernel import launch_backward

                launch_backward(rows, weight_int8, scale, grad_x)
        return grad_x, None, None, grad_bias, None if x is None else weight_gradient(grad, x)


def panel_length(rows: Tensor, length: int, width: int) -> int:
    """How many of the weight's rows (columns in backward), each of this width, a panel has; 0 for the kernel.

    A panel is at most half of the weight. One that stays in the cache is narrow where the weight is wide: it is as long
    as its product needs to keep the GPU busy, at least.
    """
    if rows.shape[0] < MANY_ROWS:
        return 0
    cached = PANEL_BYTES // (width * rows.element_size()) // LEAST_PANEL * LEAST_PANEL
    busy = TILE * -(-TILES // -(-rows.shape[0] // TILE))
    most = min(-(-length // 2), max(cached, busy))
    return most if most >= LEAST_PANEL else 0


def forward_panels(
    rows: Tensor, weight_int8: Tensor, scale: Tensor, bias: Tensor | None, y: Tensor, panel: int
) -> None:
    """Fills y (rows, out_features): each panel's columns are one whole product."""
    scratch = rows.new_empty(panel, weight_int8.shape[1])
    for part in _panels(weight_int8.shape[0], panel, y):
        block = scratch[: part.stop - part.start]
        _dequantise(weight_int8[part], scale[part], block)
        if bias is None:
            torch.mm(rows, block.transpose(0, 1), out=y[:, part])
        else:
            torch.addmm(bias[part], rows, block.transpose(0, 1), out=y[:, part])


def backward_panels(rows: Tensor, weight_int8: Tensor, scale: Tensor, grad_x: Tensor, panel: int) -> None:
    """Fills grad_x (rows, in_features), as forward_panels, by columns of the weight."""
    scratch = rows.new_empty(weight_int8.shape[0] * panel)
    for part in _panels(weight_int8.shape[1], panel, grad_x):
        columns = part.stop - part.start
        block = scratch[: weight_int8.shape[0] * columns].view(-1, columns)
        _dequantise(weight_int8[:, part], scale, block)
        torch.mm(rows, block, out=grad_x[:, part])


def _panels(length: int, panel: int, result: Tensor) -> list[slice]:
    """All of them; where nothing is computed the first stands for all: none takes memory of its own."""
    parts = list(slices(length, panel))
    return parts if launches(result) else parts[:1]


def _dequantise(weight_int8: Tensor, scale: Tensor, block: Tensor) -> None:
    if launches(block):
        from muse_kernels.int8_linear.kernel import launch_dequantise

        launch_dequantise(weight_int8, scale, block)
