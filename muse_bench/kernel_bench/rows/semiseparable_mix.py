"""Matrix-state mixing of a sequence, beside attention of the same width and flash-linear-attention."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muse_bench.kernel_bench.benchmark import Benchmark, Contender, Goal, Maker, Operation, Sizes, Work

if TYPE_CHECKING:
    from torch import Tensor

FLASH, CHOSEN = "flash SDPA", "SDPA"
FLA, FLA_FIXED = "fla simple_gla", "fla simple_gla, fixed decay"
TUNES = "flash-linear-attention compiles over a hundred configurations of its kernels first"


@dataclass(frozen=True, kw_only=True)
class MixSizes(Sizes):
    """A state (state, head_dim) for each head; heads * head_dim is the width."""

    batch: int
    seq: int
    heads: int
    head_dim: int
    state: int

    @property
    def label(self) -> str:
        return f"{self.batch} x {self.seq:,}, {self.heads} x {self.head_dim}, state {self.state} {self.dtype}"

    @property
    def rows(self) -> int:
        """Steps of all heads."""
        return self.batch * self.seq * self.heads


def inputs(sizes: MixSizes, make: Maker) -> tuple[Any, ...]:
    """Queries, keys, values, and the logarithm of the decay."""
    rows = (sizes.batch, sizes.seq, sizes.heads)
    return (*_vectors(sizes, make, sizes.state), make.uniform(*rows, low=-0.1, high=-0.001))


def fixed_decay(sizes: MixSizes, make: Maker) -> tuple[Any, ...]:
    """The same with one decay a head, a constant."""
    decay = make.uniform(sizes.heads, low=-0.1, high=-0.001, grad=False)
    return (*_vectors(sizes, make, sizes.state), decay.float())


def attention_inputs(sizes: MixSizes, make: Maker) -> tuple[Any, ...]:
    """Queries and keys as wide as the values."""
    return _vectors(sizes, make, sizes.head_dim)


def ours(_: MixSizes) -> Operation:
    """The kernel."""
    from muse_kernels.semiseparable_mix import semiseparable_mix

    return semiseparable_mix


def flash(sizes: MixSizes) -> Operation:
    """Causal attention by PyTorch's flash kernel."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    attend = sdpa(sizes)

    def mix(query: "Tensor", key: "Tensor", value: "Tensor") -> Any:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return attend(query, key, value)

    return mix


def sdpa(_: MixSizes) -> Operation:
    """Causal attention by the kernel that PyTorch chooses."""
    from torch.nn.functional import scaled_dot_product_attention

    def mix(query: "Tensor", key: "Tensor", value: "Tensor") -> "Tensor":
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        return scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2)

    return mix


def fla(_: MixSizes) -> Operation:
    """Linear attention whose decay depends on the input, as ours."""
    from fla.ops.simple_gla import chunk_simple_gla

    return lambda q, k, v, decay: chunk_simple_gla(q, k, v, g=decay, scale=1.0)[0]


def fla_fixed(_: MixSizes) -> Operation:
    """Linear attention with a constant decay a head: nothing is read of it, and no gradient found."""
    from fla.ops.simple_gla import chunk_simple_gla

    return lambda q, k, v, decay: chunk_simple_gla(q, k, v, g_gamma=decay, scale=1.0)[0]


def forward(sizes: MixSizes) -> Work:
    """Reads queries, keys, values and decays, writes the outputs; each step updates the state and reads it."""
    numbers = sizes.rows * (2 * sizes.state + 2 * sizes.head_dim + 1)
    return Work(numbers * sizes.item_bytes, 4 * sizes.rows * sizes.state * sizes.head_dim)


def backward(sizes: MixSizes) -> Work:
    """Reads the inputs and the outputs' gradient, writes a gradient for each input; four products with a state."""
    numbers = sizes.rows * (4 * sizes.state + 3 * sizes.head_dim + 2)
    return Work(numbers * sizes.item_bytes, 8 * sizes.rows * sizes.state * sizes.head_dim)


def _vectors(sizes: MixSizes, make: Maker, width: int) -> tuple[Any, ...]:
    rows = (sizes.batch, sizes.seq, sizes.heads)
    scale = width**-0.5
    query, key = make.normal(*rows, width, scale=scale), make.normal(*rows, width, scale=scale)
    return query, key, make.normal(*rows, sizes.head_dim)


def _long(sizes: MixSizes) -> bool:
    return sizes.seq >= 2_048


BENCHMARK = Benchmark(
    about="Matrix-state recurrence of heads",
    cases=tuple(
        MixSizes(batch=16_384 // seq, seq=seq, heads=16, head_dim=64, state=state)
        for state in (16, 64)
        for seq in (512, 2_048, 8_192)
    ),
    tiny=(MixSizes(batch=1, seq=6, heads=2, head_dim=8, state=4),),
    inputs=inputs,
    ours=ours,
    forward=forward,
    backward=backward,
    peers=(
        Contender(name=FLASH, load=flash, inputs=attention_inputs),
        Contender(name=CHOSEN, load=sdpa, inputs=attention_inputs),
        Contender(name=FLA_FIXED, load=fla_fixed, inputs=fixed_decay, slow=TUNES),
        Contender(name=FLA, load=fla, slow=TUNES),
    ),
    goals=(
        Goal(figure="forward+backward", against=FLASH, factor=1, when=_long),
        Goal(figure="forward+backward", against=FLA_FIXED, factor=1.2, when=lambda sizes: sizes.state > 16),
        Goal(figure="forward+backward", against=FLA_FIXED, factor=1, when=lambda sizes: sizes.state <= 16),
        Goal(figure="forward", against=FLA, factor=1.2, when=lambda sizes: sizes.state > 16),
        Goal(figure="forward", against=FLA, factor=1, when=lambda sizes: sizes.state <= 16),
    ),
)
