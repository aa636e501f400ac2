"""Cross-entropy of a dense head, whose logits plain PyTorch holds and ours does not."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muse_bench.kernel_bench.benchmark import ID_BYTES, Benchmark, Contender, Goal, Maker, Operation, Sizes, Work
from muse_bench.kernel_bench.peers import COMPILE, EAGER, compiled, eager

if TYPE_CHECKING:
    from torch import Tensor

LIGER, CUT = "Liger", "cut-cross-entropy"


@dataclass(frozen=True, kw_only=True)
class HeadSizes(Sizes):
    """x (tokens, d_model) against a head (vocab_size, d_model)."""

    tokens: int
    vocab_size: int
    d_model: int

    @property
    def label(self) -> str:
        return f"{self.tokens:,} x {self.vocab_size:,} x {self.d_model:,} {self.dtype}"


def inputs(sizes: HeadSizes, make: Maker) -> tuple[Any, ...]:
    """x, the head, the targets."""
    head = make.normal(sizes.vocab_size, sizes.d_model, scale=sizes.d_model**-0.5)
    return make.normal(sizes.tokens, sizes.d_model), head, make.ids(sizes.tokens, size=sizes.vocab_size)


def ours(_: HeadSizes) -> Operation:
    """The kernel."""
    from muse_kernels import linear_cross_entropy

    return linear_cross_entropy


def plain(_: HeadSizes) -> Operation:
    """All logits, then a softmax in float32."""
    from torch.nn.functional import cross_entropy

    def loss(x: "Tensor", head: "Tensor", targets: "Tensor") -> "Tensor":
        return cross_entropy((x @ head.T).float(), targets)

    return loss


def liger(_: HeadSizes) -> Operation:
    """Liger's, which finds the gradients in its forward pass where they will be asked for."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    return lambda x, head, targets: liger_fused_linear_cross_entropy(x, head, targets)


def cut(_: HeadSizes) -> Operation:
    """Apple's, as it comes: it leaves out gradients too small for the dtype."""
    from cut_cross_entropy import linear_cross_entropy

    return lambda x, head, targets: linear_cross_entropy(x, head, targets)


def forward(sizes: HeadSizes) -> Work:
    """Reads x, head and targets; the loss is one number. One product."""
    return Work(_read_bytes(sizes), 2 * sizes.tokens * sizes.vocab_size * sizes.d_model)


def backward(sizes: HeadSizes) -> Work:
    """Reads the same, writes the gradients of x and head. Two products: the logits' third is a way to save memory."""
    written = (sizes.tokens + sizes.vocab_size) * sizes.d_model * sizes.item_bytes
    return Work(_read_bytes(sizes) + written, 4 * sizes.tokens * sizes.vocab_size * sizes.d_model)


def _read_bytes(sizes: HeadSizes) -> int:
    return (sizes.tokens + sizes.vocab_size) * sizes.d_model * sizes.item_bytes + sizes.tokens * ID_BYTES


def _narrow(sizes: HeadSizes) -> bool:
    """The four lengths of the goals; the wider head is compared with the fused losses only."""
    return sizes.d_model < 1_024


BENCHMARK = Benchmark(
    about="Cross-entropy of a dense head",
    cases=(
        *(HeadSizes(tokens=tokens, vocab_size=50_257, d_model=768) for tokens in (4_096, 8_192, 16_384, 32_768)),
        HeadSizes(tokens=8_192, vocab_size=50_257, d_model=1_024),
    ),
    tiny=(HeadSizes(tokens=5, vocab_size=17, d_model=8),),
    inputs=inputs,
    ours=ours,
    forward=forward,
    backward=backward,
    peers=(
        eager(plain, when=_narrow),
        compiled(plain, when=_narrow),
        Contender(name=LIGER, load=liger),
        Contender(name=CUT, load=cut),
    ),
    goals=(
        Goal(figure="forward+backward", against=LIGER, factor=1),
        Goal(figure="forward+backward", against=COMPILE, factor=1.1, when=_narrow),
        Goal(figure="scratch", against=EAGER, factor=0.01, when=_narrow),
        Goal(figure="scratch", against=COMPILE, factor=0.01, when=_narrow),
    ),
)
