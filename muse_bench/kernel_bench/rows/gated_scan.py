"""The AR-SSM's inner part: running sum of u * g, times v * g, with g the sigmoid of the gate's scores."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muse_bench.kernel_bench.benchmark import Benchmark, Maker, Operation, Sizes, Work
from muse_bench.kernel_bench.peers import compiled, eager, standard_goals

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class GatedSizes(Sizes):
    """u, v and the scores of the gate, (batch, seq, rank) each."""

    batch: int
    seq: int
    rank: int

    @property
    def label(self) -> str:
        return f"{self.batch} x {self.seq:,} x {self.rank} {self.dtype}"


def inputs(sizes: GatedSizes, make: Maker) -> tuple[Any, ...]:
    """u, v and the scores."""
    shape = (sizes.batch, sizes.seq, sizes.rank)
    return make.normal(*shape), make.normal(*shape), make.normal(*shape)


def ours(_: GatedSizes) -> Operation:
    """The kernel."""
    from muse_kernels.gated_scan import gated_scan

    return gated_scan


def plain(_: GatedSizes) -> Operation:
    """A sigmoid, a product, a cumulative sum, two products."""

    def scan(u: "Tensor", v: "Tensor", scores: "Tensor") -> "Tensor":
        gate = scores.sigmoid()
        return (u * gate).cumsum(1) * (v * gate)

    return scan


def forward(sizes: GatedSizes) -> Work:
    """Reads u, v and the scores, writes the output."""
    return Work(4 * _bytes(sizes))


def backward(sizes: GatedSizes) -> Work:
    """Reads u, v, the scores and the output's gradient, writes a gradient for each of the three."""
    return Work(7 * _bytes(sizes))


def _bytes(sizes: GatedSizes) -> int:
    return sizes.batch * sizes.seq * sizes.rank * sizes.item_bytes


BENCHMARK = Benchmark(
    about="Gate, scan and product of the AR-SSM",
    cases=(GatedSizes(batch=8, seq=2_048, rank=32), GatedSizes(batch=8, seq=8_192, rank=128)),
    tiny=(GatedSizes(batch=2, seq=6, rank=4),),
    inputs=inputs,
    ours=ours,
    forward=forward,
    backward=backward,
    peers=(eager(plain), compiled(plain)),
    goals=standard_goals(),
)
