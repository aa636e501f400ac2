"""The activations between the layers, and their gradients as PyTorch computes them."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Activation = Literal["relu", "gelu"]


def activate(pre: Tensor, activation: Activation) -> Tensor:
    """relu(pre), or the exact gelu(pre) = pre * Phi(pre)."""
    return torch.relu(pre) if activation == "relu" else functional.gelu(pre)


def activate_(pre: Tensor, activation: Activation) -> Tensor:
    """The same, in place."""
    return torch.relu_(pre) if activation == "relu" else torch.ops.aten.gelu_(pre)


def activate_backward_(grad: Tensor, pre: Tensor, activation: Activation) -> Tensor:
    """The gradient of the pre-activation, over that of the activation's output."""
    if activation == "relu":
        return torch.ops.aten.threshold_backward.grad_input(grad, pre, 0, grad_input=grad)  # type: ignore[no-any-return]
    return torch.ops.aten.gelu_backward.grad_input(grad, pre, grad_input=grad)  # type: ignore[no-any-return]
