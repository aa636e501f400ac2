"""Linear layer with INT8 weights, dequantised block by block: rows in forward, columns in backward.

So each block of the output, and of the input's gradient, is one whole product: nothing is summed over blocks.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from muse_kernels.chunks import chunk_length, slices


class Int8Linear(torch.autograd.Function):
    """Saves the INT8 weight and its scale, by reference; x only for the weight's gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_int8: Tensor, scale: Tensor, bias: Tensor | None, straight_through: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(weight_int8, scale, x if ctx.needs_input_grad[4] else None)
        ctx.bias_dtype = None if bias is None else bias.dtype
        rows, (out_features, in_features) = x.reshape(-1, x.shape[-1]), weight_int8.shape
        y = x.new_empty(rows.shape[0], out_features)
        for part in slices(out_features, _block_length(rows, out_features, in_features)):
            block = _dequantise(weight_int8[part], scale[part], x.dtype).transpose(0, 1)
            if bias is None:
                torch.mm(rows, block, out=y[:, part])
            else:
                torch.addmm(bias[part], rows, block, out=y[:, part])
            del block  # before the next one
        return y.view(*x.shape[:-1], out_features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight_int8, scale, x = ctx.saved_tensors
        out_features, in_features = weight_int8.shape
        grad_x = grad_bias = None
        if ctx.needs_input_grad[3]:
            grad_bias = grad.reshape(-1, out_features).sum(0)
        if ctx.needs_input_grad[0]:
            rows = grad.reshape(-1, out_features).contiguous()
            grad_x = grad.new_empty(rows.shape[0], in_features)
            for part in slices(in_features, _block_length(grad_x, in_features, out_features)):
                block = _dequantise(weight_int8[:, part], scale, grad.dtype)
                torch.mm(rows, block, out=grad_x[:, part])
                del block
            grad_x = grad_x.view(*grad.shape[:-1], in_features)
        return grad_x, None, None, grad_bias, None if x is None else weight_gradient(grad, x)


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """grad^T x over all rows, (out_features, in_features), dtype of x."""
    return grad.reshape(-1, grad.shape[-1]).t() @ x.reshape(-1, x.shape[-1])


def _block_length(rows: Tensor, length: int, width: int) -> int:
    """Rows or columns of the weight whose dequantised block takes about the bytes of these rows."""
    item_bytes = width * rows.element_size()
    return chunk_length(length, item_bytes, rows.element_size() * rows.shape[0] * rows.shape[1])


def _dequantise(weight_int8: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """weight_int8 * scale, rounded once, with no float32 copy between."""
    block = torch.empty(weight_int8.shape, dtype=dtype, device=weight_int8.device)
    return torch.mul(weight_int8, scale.unsqueeze(-1), out=block)
