"""Cross-entropy of a low-rank head: a narrow product, then the vocabulary."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muse_bench.kernel_bench.benchmark import ID_BYTES, Benchmark, Contender, Maker, Operation, Sizes, Work
from muse_bench.kernel_bench.peers import compiled, eager, standard_goals

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LowRankSizes(Sizes):
    """x (tokens, d_model) against a head of two factors, (rank, d_model) and (vocab_size, rank)."""

    tokens: int
    vocab_size: int
    d_model: int
    rank: int

    @property
    def label(self) -> str:
        return f"{self.tokens:,} x {self.vocab_size:,} x {self.d_model:,}, rank {self.rank} {self.dtype}"


def inputs(sizes: LowRankSizes, make: Maker) -> tuple[Any, ...]:
    """x, both factors, the targets."""
    down = make.normal(sizes.rank, sizes.d_model, scale=sizes.d_model**-0.5)
    up = make.normal(sizes.vocab_size, sizes.rank, scale=sizes.rank**-0.5)
    return make.normal(sizes.tokens, sizes.d_model), down, up, make.ids(sizes.tokens, size=sizes.vocab_size)


def ours(_: LowRankSizes) -> Operation:
    """The narrow product, then the kernel."""
    from muse_kernels import linear_cross_entropy

    return lambda x, down, up, targets: linear_cross_entropy(x @ down.T, up, targets)


def plain(_: LowRankSizes) -> Operation:
    """Both products, all logits, a softmax in float32."""
    from torch.nn.functional import cross_entropy

    def loss(x: "Tensor", down: "Tensor", up: "Tensor", targets: "Tensor") -> "Tensor":
        return cross_entropy((x @ down.T @ up.T).float(), targets)

    return loss


def liger(_: LowRankSizes) -> Operation:
    """The narrow product, then Liger's."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    return lambda x, down, up, targets: liger_fused_linear_cross_entropy(x @ down.T, up, targets)


def forward(sizes: LowRankSizes) -> Work:
    """Reads x, both factors and the targets; the loss is one number. Two products."""
    return Work(_read_bytes(sizes), _operations(sizes))


def backward(sizes: LowRankSizes) -> Work:
    """Reads the same, writes the gradients of x and of the factors; twice the products."""
    return Work(_read_bytes(sizes) + _float_bytes(sizes), 2 * _operations(sizes))


def _float_bytes(sizes: LowRankSizes) -> int:
    factors = sizes.rank * (sizes.d_model + sizes.vocab_size)
    return (sizes.tokens * sizes.d_model + factors) * sizes.item_bytes


def _read_bytes(sizes: LowRankSizes) -> int:
    return _float_bytes(sizes) + sizes.tokens * ID_BYTES


def _operations(sizes: LowRankSizes) -> int:
    return 2 * sizes.tokens * sizes.rank * (sizes.d_model + sizes.vocab_size)


BENCHMARK = Benchmark(
    about="Cross-entropy of a low-rank head",
    cases=(LowRankSizes(tokens=8_192, vocab_size=50_257, d_model=1_024, rank=128),),
    tiny=(LowRankSizes(tokens=5, vocab_size=17, d_model=8, rank=4),),
    inputs=inputs,
    ours=ours,
    forward=forward,
    backward=backward,
    peers=(eager(plain), compiled(plain), Contender(name="Liger", load=liger)),
    goals=standard_goals(),
)
