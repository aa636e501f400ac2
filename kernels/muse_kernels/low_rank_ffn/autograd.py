"""Feed-forward of low rank by plain products; the wide intermediate exists one chunk of rows at a time."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from muse_kernels.chunks import chunk_length, slices
from muse_kernels.low_rank_ffn.activation import Activation, activate, activate_, activate_backward_
from muse_kernels.precision import accumulation_dtype, add_product_


class LowRankFFN(torch.autograd.Function):
    """Saves x and the narrow pre-activations: of one layer out of two, of two out of four."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: Activation, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[::2], parameters[1::2]
        rows = x.reshape(-1, x.shape[-1])
        narrow = [torch.addmm(biases[0], rows, weights[0].t())]
        if len(weights) == 4:
            narrow.append(_widen_and_narrow(activate(narrow[0], activation), parameters[2:6], activation, rows))
        ctx.save_for_backward(x, *narrow, *parameters)
        ctx.activation = activation
        return torch.addmm(biases[-1], activate(narrow[-1], activation), weights[-1].t()).view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        count = 1 if len(saved) == 5 else 2
        narrow, parameters = saved[:count], saved[count:]
        rows = x.reshape(-1, x.shape[-1])
        # The gradient of a sum arrives expanded: a product would make this copy out of a tracer's sight.
        grad_rows = grad.reshape(rows.shape).contiguous()
        grad_last = _grad_layer(grad_rows, activate(narrow[-1], ctx.activation))
        grad_narrow = activate_backward_(grad_rows @ parameters[-2], narrow[-1], ctx.activation)
        grad_middle: tuple[Tensor, ...] = ()
        if len(narrow) == 2:
            hidden = activate(narrow[0], ctx.activation)
            grad_hidden, grad_middle = _wide_backward(grad_narrow, hidden, parameters[2:6], ctx.activation, rows)
            grad_narrow = activate_backward_(grad_hidden, narrow[0], ctx.activation)
        grad_first = _grad_layer(grad_narrow, rows)
        grad_x = (grad_narrow @ parameters[0]).view(x.shape)
        return grad_x, None, *grad_first, *grad_middle, *grad_last


def _grad_layer(grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of a linear layer's weight and bias; a sum over rows as a product takes no scratch."""
    return grad.t() @ x, grad.t() @ grad.new_ones(len(grad))


def _widen_and_narrow(hidden: Tensor, middle: tuple[Tensor, ...], activation: Activation, x: Tensor) -> Tensor:
    """The second narrow pre-activation, through the two layers in the middle."""
    up, up_bias, down, down_bias = middle
    narrow = torch.empty_like(hidden)
    for part in slices(x.shape[0], _chunk_rows(x, up.shape[0], buffers=1)):
        wide = activate_(torch.addmm(up_bias, hidden[part], up.t()), activation)
        torch.addmm(down_bias, wide, down.t(), out=narrow[part])
        del wide  # before the next one
    return narrow


def _wide_backward(
    grad: Tensor, hidden: Tensor, middle: list[Tensor], activation: Activation, x: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Gradients of the hidden vectors, and of the two layers in the middle, summed over chunks in float32."""
    up, up_bias, down, _ = middle
    wide_dtype = accumulation_dtype(x.dtype)
    grad_hidden = torch.empty_like(hidden)
    grad_up, grad_down, grad_up_bias = (
        torch.zeros(tensor.shape, dtype=wide_dtype, device=tensor.device) for tensor in (up, down, up_bias)
    )
    for part in slices(x.shape[0], _chunk_rows(x, up.shape[0], buffers=2)):
        pre = torch.addmm(up_bias, hidden[part], up.t())
        wide = activate(pre, activation)
        add_product_(grad_down, grad[part].t(), wide)
        del wide  # the gradient takes its place
        grad_pre = activate_backward_(grad[part] @ down, pre, activation)
        add_product_(grad_up, grad_pre.t(), hidden[part])
        grad_up_bias.add_(grad_pre.sum(0, dtype=wide_dtype))
        torch.mm(grad_pre, up, out=grad_hidden[part])
        del pre, grad_pre
    sums = (grad_up.to(up.dtype), grad_up_bias.to(up.dtype), grad_down.to(up.dtype), grad.sum(0))
    return grad_hidden, sums


def _chunk_rows(x: Tensor, width: int, buffers: int) -> int:
    """Rows whose wide buffers take about the bytes of x."""
    row_bytes = buffers * width * x.element_size()
    return chunk_length(x.shape[0], row_bytes, x.element_size() * x.shape[0] * x.shape[1])
