"""Linear layer with INT8 weights: the definition, which dequantises the whole weight."""

from torch import Tensor
from torch.nn import functional


def int8_linear(
    x: Tensor, weight_int8: Tensor, scale: Tensor, bias: Tensor | None, straight_through: Tensor | None
) -> Tensor:
    """x @ (weight_int8 * scale)^T + bias, the weight rounded to the dtype of x."""
    weight = (weight_int8 * scale.unsqueeze(-1)).to(x.dtype)
    if straight_through is not None:
        weight = weight + (straight_through - straight_through.detach()).to(x.dtype)
    return functional.linear(x, weight, bias)
