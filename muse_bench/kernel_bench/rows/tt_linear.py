"""Logits against a tensor-train table, which is never built."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from muse_bench.kernel_bench.benchmark import Benchmark, Maker, Operation, Work
from muse_bench.kernel_bench.peers import compiled, eager, standard_goals
from muse_bench.kernel_bench.tables import TableSizes, core_bytes, cores, product_operations, table

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TableLinearSizes(TableSizes):
    """x (tokens, d_model) against a tensor-train table."""

    @property
    def label(self) -> str:
        shape = f"{self.tokens:,} x {self.vocab_size:,} x {self.d_model:,}"
        return f"{shape}, rank {self.rank} {self.dtype}"


def inputs(sizes: TableLinearSizes, make: Maker) -> tuple[Any, ...]:
    """x, the cores and the angles."""
    return (make.normal(sizes.tokens, sizes.d_model), *cores(sizes, make))


def ours(sizes: TableLinearSizes) -> Operation:
    """The kernel."""
    from muse_kernels import tt_linear

    return partial(tt_linear, vocab_size=sizes.vocab_size)


def plain(sizes: TableLinearSizes) -> Operation:
    """The table built whole, then one product."""
    whole = partial(table, vocab_size=sizes.vocab_size, d_model=sizes.d_model)

    def product(x: "Tensor", *parts: "Tensor") -> "Tensor":
        return x @ whole(*parts).T

    return product


def forward(sizes: TableLinearSizes) -> Work:
    """Reads x and cores, writes the logits."""
    return Work(_small_bytes(sizes) + _logit_bytes(sizes), product_operations(sizes))


def backward(sizes: TableLinearSizes) -> Work:
    """Reads the logits' gradient, x and cores, writes the gradients of x and cores; twice the operations."""
    moved = 2 * _small_bytes(sizes) + _logit_bytes(sizes)
    return Work(moved, 2 * product_operations(sizes))


def _small_bytes(sizes: TableLinearSizes) -> int:
    return sizes.tokens * sizes.d_model * sizes.item_bytes + core_bytes(sizes)


def _logit_bytes(sizes: TableLinearSizes) -> int:
    return sizes.tokens * sizes.vocab_size * sizes.item_bytes


BENCHMARK = Benchmark(
    about="Logits against a tensor-train table",
    cases=tuple(TableLinearSizes(tokens=2_048, vocab_size=50_257, d_model=1_024, rank=rank) for rank in (3, 16)),
    tiny=(TableLinearSizes(tokens=5, vocab_size=23, d_model=10, rank=2),),
    inputs=inputs,
    ours=ours,
    forward=forward,
    backward=backward,
    peers=(eager(plain), compiled(plain)),
    goals=standard_goals(),
)
