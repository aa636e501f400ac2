"""Cross-entropy of a tensor-train head, beside our own of a dense head of the same sizes."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from muse_bench.kernel_bench.benchmark import ID_BYTES, Benchmark, Contender, Goal, Maker, Operation, Work
from muse_bench.kernel_bench.peers import eager
from muse_bench.kernel_bench.tables import TableSizes, core_bytes, cores, product_operations, table

if TYPE_CHECKING:
    from torch import Tensor

DENSE = "muse_kernels, dense head"


@dataclass(frozen=True, kw_only=True)
class TableHeadSizes(TableSizes):
    """x (tokens, d_model) against a tensor-train head."""

    @property
    def label(self) -> str:
        shape = f"{self.tokens:,} x {self.vocab_size:,} x {self.d_model:,}"
        return f"{shape}, rank {self.rank} {self.dtype}"


def inputs(sizes: TableHeadSizes, make: Maker) -> tuple[Any, ...]:
    """x, the targets, the cores and the angles."""
    x, targets = make.normal(sizes.tokens, sizes.d_model), make.ids(sizes.tokens, size=sizes.vocab_size)
    return (x, targets, *cores(sizes, make))


def ours(sizes: TableHeadSizes) -> Operation:
    """The kernel."""
    from muse_kernels import tensor_train_cross_entropy

    def loss(x: "Tensor", targets: "Tensor", core1: "Tensor", core2: "Tensor", theta: "Tensor") -> "Tensor":
        return tensor_train_cross_entropy(x, core1, core2, theta, targets, vocab_size=sizes.vocab_size)

    return loss


def plain(sizes: TableHeadSizes) -> Operation:
    """The table built whole, then all logits."""
    from torch.nn.functional import cross_entropy

    whole = partial(table, vocab_size=sizes.vocab_size, d_model=sizes.d_model)

    def loss(x: "Tensor", targets: "Tensor", *parts: "Tensor") -> "Tensor":
        return cross_entropy((x @ whole(*parts).T).float(), targets)

    return loss


def dense(_: TableHeadSizes) -> Operation:
    """Our own with a dense head."""
    from muse_kernels import linear_cross_entropy

    return linear_cross_entropy


def dense_inputs(sizes: TableHeadSizes, make: Maker) -> tuple[Any, ...]:
    """x, a dense head, the targets."""
    head = make.normal(sizes.vocab_size, sizes.d_model, scale=sizes.d_model**-0.5)
    return make.normal(sizes.tokens, sizes.d_model), head, make.ids(sizes.tokens, size=sizes.vocab_size)


def forward(sizes: TableHeadSizes) -> Work:
    """Reads x, cores and targets; the loss is one number."""
    return Work(_read_bytes(sizes), product_operations(sizes))


def backward(sizes: TableHeadSizes) -> Work:
    """Reads the same, writes the gradients of x and of the cores; twice the operations."""
    written = sizes.tokens * sizes.d_model * sizes.item_bytes + core_bytes(sizes)
    return Work(_read_bytes(sizes) + written, 2 * product_operations(sizes))


def _read_bytes(sizes: TableHeadSizes) -> int:
    return sizes.tokens * (sizes.d_model * sizes.item_bytes + ID_BYTES) + core_bytes(sizes)


BENCHMARK = Benchmark(
    about="Cross-entropy of a tensor-train head",
    cases=tuple(TableHeadSizes(tokens=8_192, vocab_size=50_257, d_model=1_024, rank=rank) for rank in (3, 16)),
    tiny=(TableHeadSizes(tokens=5, vocab_size=23, d_model=10, rank=2),),
    inputs=inputs,
    ours=ours,
    forward=forward,
    backward=backward,
    peers=(Contender(name=DENSE, load=dense, inputs=dense_inputs), eager(plain)),
    goals=(
        Goal(figure="forward", against=DENSE, factor=1.5),
        Goal(figure="forward+backward", against=DENSE, factor=1.5),
    ),
)
