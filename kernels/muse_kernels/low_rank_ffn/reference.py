"""Feed-forward of low rank: the definition."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from muse_kernels.low_rank_ffn.activation import Activation, activate


def low_rank_ffn(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], activation: Activation) -> Tensor:
    """Linear layers with the activation between them."""
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        x = activate(functional.linear(x, weight, bias), activation)
    return functional.linear(x, weights[-1], biases[-1])
