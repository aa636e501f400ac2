"""Depthwise convolution along the sequence that sees no later token."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muse_bench.kernel_bench.benchmark import Benchmark, Contender, Maker, Operation, Sizes, Work
from muse_bench.kernel_bench.peers import compiled, eager, standard_goals

if TYPE_CHECKING:
    from torch import Tensor

TUNES = "flash-linear-attention compiles dozens of configurations of its kernel first"


@dataclass(frozen=True, kw_only=True)
class ConvolutionSizes(Sizes):
    """x (batch, seq, d_model) and `width` taps for each channel."""

    batch: int
    seq: int
    d_model: int
    width: int = 3

    @property
    def label(self) -> str:
        return f"{self.batch} x {self.seq:,} x {self.d_model:,}, width {self.width} {self.dtype}"


def inputs(sizes: ConvolutionSizes, make: Maker) -> tuple[Any, ...]:
    """x and the taps, (width, d_model)."""
    return make.normal(sizes.batch, sizes.seq, sizes.d_model), make.normal(sizes.width, sizes.d_model)


def channels_first(sizes: ConvolutionSizes, make: Maker) -> tuple[Any, ...]:
    """x and the taps, (d_model, width)."""
    return make.normal(sizes.batch, sizes.seq, sizes.d_model), make.normal(sizes.d_model, sizes.width)


def ours(_: ConvolutionSizes) -> Operation:
    """The kernel."""
    from muse_kernels.causal_convolution import causal_convolution

    return causal_convolution


def plain(_: ConvolutionSizes) -> Operation:
    """A product and a sum for each tap."""
    import torch
    from torch.nn.functional import pad

    def convolve(x: "Tensor", weight: "Tensor") -> "Tensor":
        seq, width = x.shape[1], weight.shape[0]
        padded = pad(x, (0, 0, width - 1, 0))
        out = padded[:, :seq] * weight[0]
        for tap in range(1, width):
            out = torch.addcmul(out, padded[:, tap : tap + seq], weight[tap])
        return out

    return convolve


def depthwise(_: ConvolutionSizes) -> Operation:
    """PyTorch's grouped convolution, which wants the sequence last."""
    from torch.nn.functional import conv1d

    def convolve(x: "Tensor", weight: "Tensor") -> "Tensor":
        seq, (channels, width) = x.shape[1], weight.shape
        out = conv1d(x.transpose(1, 2), weight.unsqueeze(1), padding=width - 1, groups=channels)
        return out[..., :seq].transpose(1, 2)

    return convolve


def fla(_: ConvolutionSizes) -> Operation:
    """flash-linear-attention's short convolution."""
    from fla.modules.causal_conv1d import causal_conv1d

    return lambda x, weight: causal_conv1d(x, weight)[0]


def forward(sizes: ConvolutionSizes) -> Work:
    """Reads x and the taps, writes the output."""
    return Work((2 * _numbers(sizes) + sizes.width * sizes.d_model) * sizes.item_bytes)


def backward(sizes: ConvolutionSizes) -> Work:
    """Reads the output's gradient, x and the taps, writes the gradients of x and of the taps."""
    return Work((3 * _numbers(sizes) + 2 * sizes.width * sizes.d_model) * sizes.item_bytes)


def _numbers(sizes: ConvolutionSizes) -> int:
    return sizes.batch * sizes.seq * sizes.d_model


BENCHMARK = Benchmark(
    about="Causal depthwise convolution",
    cases=(ConvolutionSizes(batch=8, seq=2_048, d_model=1_024),),
    tiny=(ConvolutionSizes(batch=2, seq=5, d_model=8),),
    inputs=inputs,
    ours=ours,
    forward=forward,
    backward=backward,
    peers=(
        eager(plain),
        compiled(plain),
        Contender(name="conv1d", load=depthwise, inputs=channels_first),
        Contender(name="fla causal_conv1d", load=fla, inputs=channels_first, slow=TUNES),
    ),
    goals=standard_goals(),
)
