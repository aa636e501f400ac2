"""Feed-forward part of small rank: down, activation, up; and the form of four matrices with a wide middle."""

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from muse_bench.kernel_bench.benchmark import Benchmark, Maker, Operation, Sizes, Work
from muse_bench.kernel_bench.peers import compiled, eager, standard_goals

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class FfnSizes(Sizes):
    """x (tokens, d_model); d_model to rank to d_model, or by way of rank, wide and rank where wide is not 0."""

    tokens: int
    d_model: int
    rank: int
    wide: int = 0

    @property
    def label(self) -> str:
        return f"{self.tokens:,}, {' - '.join(f'{width:,}' for width in self.widths)} {self.dtype}"

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths between which the matrices map."""
        middle = (self.rank, self.wide, self.rank) if self.wide else (self.rank,)
        return (self.d_model, *middle, self.d_model)


def inputs(sizes: FfnSizes, make: Maker) -> tuple[Any, ...]:
    """x, then a matrix and a bias for each map."""
    parts = [
        part
        for narrow, wide in pairwise(sizes.widths)
        for part in (make.normal(wide, narrow, scale=narrow**-0.5), make.normal(wide, scale=0.1))
    ]
    return (make.normal(sizes.tokens, sizes.d_model), *parts)


def ours(_: FfnSizes) -> Operation:
    """The kernel."""
    from muse_kernels.low_rank_ffn import low_rank_ffn

    return lambda x, *parts: low_rank_ffn(x, parts[::2], parts[1::2])


def plain(_: FfnSizes) -> Operation:
    """Linear layers with ReLU between them."""
    from torch.nn.functional import linear, relu

    def ffn(x: "Tensor", *parts: "Tensor") -> "Tensor":
        for index in range(0, len(parts), 2):
            x = linear(x if index == 0 else relu(x), parts[index], parts[index + 1])
        return x

    return ffn


def forward(sizes: FfnSizes) -> Work:
    """Reads x and the parameters, writes the output; a product for each matrix."""
    return Work(2 * _row_bytes(sizes) + _parameter_bytes(sizes), _operations(sizes))


def backward(sizes: FfnSizes) -> Work:
    """Reads x, the parameters and the output's gradient, writes a gradient for each; two products a matrix."""
    return Work(3 * _row_bytes(sizes) + 2 * _parameter_bytes(sizes), 2 * _operations(sizes))


def _row_bytes(sizes: FfnSizes) -> int:
    return sizes.tokens * sizes.d_model * sizes.item_bytes


def _parameter_bytes(sizes: FfnSizes) -> int:
    return sum((narrow + 1) * wide for narrow, wide in pairwise(sizes.widths)) * sizes.item_bytes


def _operations(sizes: FfnSizes) -> int:
    return 2 * sizes.tokens * sum(narrow * wide for narrow, wide in pairwise(sizes.widths))


BENCHMARK = Benchmark(
    about="Low-rank feed-forward part",
    cases=(
        FfnSizes(tokens=16_384, d_model=1_024, rank=16),
        FfnSizes(tokens=16_384, d_model=1_024, rank=64, wide=4_096),
    ),
    tiny=(FfnSizes(tokens=5, d_model=16, rank=4), FfnSizes(tokens=5, d_model=16, rank=4, wide=32)),
    inputs=inputs,
    ours=ours,
    forward=forward,
    backward=backward,
    peers=(eager(plain), compiled(plain)),
    goals=standard_goals(),
)
