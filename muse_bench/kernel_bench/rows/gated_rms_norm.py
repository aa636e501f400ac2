"""The normalised, gated output of a mixer's heads: x, v and the gate are read once, the result is written once."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from muse_bench.kernel_bench.benchmark import Benchmark, Maker, Operation, Sizes, Work
from muse_bench.kernel_bench.peers import compiled, eager, standard_goals

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class GatedNormSizes(Sizes):
    """x and v (batch, seq, heads, head_dim), the gate (batch, seq, heads * head_dim)."""

    batch: int
    seq: int
    heads: int
    head_dim: int

    @property
    def label(self) -> str:
        return f"{self.batch} x {self.seq:,}, {self.heads} heads x {self.head_dim} {self.dtype}"

    @property
    def width(self) -> int:
        """Numbers of a token."""
        return self.heads * self.head_dim


def inputs(sizes: GatedNormSizes, make: Maker) -> tuple[Any, ...]:
    """x, v, the skip, the gate and the weight."""
    x, v = (make.normal(sizes.batch, sizes.seq, sizes.heads, sizes.head_dim) for _ in range(2))
    gate = make.normal(sizes.batch, sizes.seq, sizes.width)
    return x, v, make.normal(sizes.heads), gate, make.normal(sizes.width)


def ours(_: GatedNormSizes) -> Operation:
    """The kernel."""
    from muse_kernels import gated_rms_norm

    return partial(gated_rms_norm, eps=EPS)


def plain(_: GatedNormSizes) -> Operation:
    """The skip, PyTorch's own norm, then the gate."""
    from torch.nn.functional import rms_norm, silu

    def norm(x: "Tensor", v: "Tensor", skip: "Tensor", gate: "Tensor", weight: "Tensor") -> "Tensor":
        total = (x + skip.unsqueeze(-1) * v).flatten(2)
        return rms_norm(total, weight.shape, weight, EPS) * silu(gate)

    return norm


def forward(sizes: GatedNormSizes) -> Work:
    """Reads x, v and the gate, writes the result."""
    return Work((4 * _rows(sizes) + _parameters(sizes)) * sizes.item_bytes)


def backward(sizes: GatedNormSizes) -> Work:
    """Reads these and the result's gradient, writes the gradients of x, v and the gate."""
    return Work((7 * _rows(sizes) + 2 * _parameters(sizes)) * sizes.item_bytes)


def _rows(sizes: GatedNormSizes) -> int:
    return sizes.batch * sizes.seq * sizes.width


def _parameters(sizes: GatedNormSizes) -> int:
    return sizes.heads + sizes.width


BENCHMARK = Benchmark(
    about="Gated norm of a mixer's heads",
    cases=(GatedNormSizes(batch=8, seq=2_048, heads=16, head_dim=64),),
    tiny=(GatedNormSizes(batch=2, seq=3, heads=2, head_dim=5),),
    inputs=inputs,
    ours=ours,
    forward=forward,
    backward=backward,
    peers=(eager(plain), compiled(plain)),
    goals=standard_goals(),
)
