"""Diagonal recurrence h_t = a_t h_(t-1) + x_t along the sequence, and the running sum."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muse_bench.kernel_bench.benchmark import LIMIT, Benchmark, Contender, Goal, Maker, Operation, Sizes, Work
from muse_bench.kernel_bench.peers import COMPILE, EAGER, compiled, eager

if TYPE_CHECKING:
    from torch import Tensor

SLOW_SCAN = "accelerated-scan's CUDA kernel is compiled by nvcc first"
ACCELERATED, WARP = "accelerated-scan", "accelerated-scan warp"


@dataclass(frozen=True, kw_only=True)
class ScanSizes(Sizes):
    """`decay` is 0 for the running sum, which reads none."""

    batch: int
    channels: int
    seq: int
    decay: int = 1

    @property
    def label(self) -> str:
        what = "" if self.decay else " running sum"
        return f"{self.batch} x {self.channels:,} x {self.seq:,}{what} {self.dtype}"

    @property
    def bytes(self) -> int:
        """Bytes of one tensor."""
        return self.batch * self.channels * self.seq * self.item_bytes


def has_decay(sizes: ScanSizes) -> bool:
    """The cases that other scans take part in."""
    return bool(sizes.decay)


def inputs(sizes: ScanSizes, make: Maker) -> tuple[Any, ...]:
    """x and the decays, (batch, seq, channels)."""
    return _pair(sizes, make, sizes.batch, sizes.seq, sizes.channels)


def channels_first(sizes: ScanSizes, make: Maker) -> tuple[Any, ...]:
    """The same as (batch, channels, seq), which accelerated-scan wants."""
    return _pair(sizes, make, sizes.batch, sizes.channels, sizes.seq)


def ours(_: ScanSizes) -> Operation:
    """The kernel."""
    from muse_kernels import diagonal_scan

    return diagonal_scan


def cumsum(_: ScanSizes) -> Operation:
    """A cumulative sum; with decays, of x over their running product, which underflows for long sequences."""

    def scan(x: "Tensor", decay: "Tensor | None" = None) -> "Tensor":
        if decay is None:
            return x.cumsum(1)
        product = decay.log().cumsum(1).exp()
        return product * (x / product).cumsum(1)

    return scan


def accelerated(_: ScanSizes) -> Operation:
    """accelerated-scan's Triton kernel."""
    from accelerated_scan.scalar import scan

    return lambda x, decay: scan(decay, x)


def accelerated_warp(_: ScanSizes) -> Operation:
    """accelerated-scan's CUDA kernel."""
    from accelerated_scan.warp import scan

    return lambda x, decay: scan(decay, x)


def forward(sizes: ScanSizes) -> Work:
    """Reads x and the decays, writes the states; an addition and a product for each."""
    return Work((2 + sizes.decay) * sizes.bytes)


def backward(sizes: ScanSizes) -> Work:
    """Reads the gradient, the decays and the states, writes the gradients of x and of the decays."""
    return Work((2 + 3 * sizes.decay) * sizes.bytes)


def _pair(sizes: ScanSizes, make: Maker, *shape: int) -> tuple[Any, ...]:
    x = make.normal(*shape)
    return (x, make.uniform(*shape, low=0.9, high=0.999)) if sizes.decay else (x,)


BENCHMARK = Benchmark(
    about="Recurrence h_t = a_t h_(t-1) + x_t",
    cases=(
        ScanSizes(batch=8, channels=1_536, seq=8_192),
        ScanSizes(batch=8, channels=1_536, seq=8_192, dtype="fp32"),
        ScanSizes(batch=8, channels=1_536, seq=8_192, decay=0),
    ),
    tiny=(ScanSizes(batch=2, channels=3, seq=8), ScanSizes(batch=2, channels=3, seq=8, decay=0)),
    inputs=inputs,
    ours=ours,
    forward=forward,
    backward=backward,
    peers=(
        eager(cumsum),
        compiled(cumsum),
        Contender(name=ACCELERATED, load=accelerated, inputs=channels_first, when=has_decay),
        Contender(name=WARP, load=accelerated_warp, inputs=channels_first, when=has_decay, slow=SLOW_SCAN),
    ),
    goals=(
        Goal(figure="forward", against=LIMIT, factor=1 / 0.8),
        Goal(figure="forward+backward", against=LIMIT, factor=1 / 0.7),
        Goal(figure="forward", against=EAGER, factor=1),
        Goal(figure="forward+backward", against=EAGER, factor=1),
        Goal(figure="forward+backward", against=ACCELERATED, factor=1, when=has_decay),
        Goal(figure="forward+backward", against=WARP, factor=1, when=has_decay),
        Goal(figure="forward+backward", against=COMPILE, factor=1.15),
    ),
)
