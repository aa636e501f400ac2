"""INT8 weight-only linear layers for inference: real int8 storage, one scale an output channel."""

from torch import Tensor, nn

from muse_kernels import int8_linear, quantise_int8


class Int8Linear(nn.Module):
    """y = x (scale * W_int8)^T + b. `weight`: (out, in) int8 and `scale`: (out,), both buffers."""

    weight: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = quantise_int8(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return int8_linear(x, self.weight, self.scale, bias=self.bias)


def quantise_linears(model: nn.Module) -> nn.Module:
    """Replaces every nn.Linear of the model by its INT8 form, in place, and returns the model."""
    for name, child in model.named_children():
        if type(child) is nn.Linear:
            setattr(model, name, Int8Linear(child))
        else:
            quantise_linears(child)
    return model
