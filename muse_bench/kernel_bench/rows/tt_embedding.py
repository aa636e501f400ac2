"""Rows of a tensor-train table, beside a dense table, tensorly-torch's factorised embedding, and writing alone."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from muse_bench.kernel_bench.benchmark import ID_BYTES, LIMIT, Benchmark, Contender, Goal, Maker, Operation, Work
from muse_bench.kernel_bench.peers import compiled, eager
from muse_bench.kernel_bench.tables import TableSizes, core_bytes, cores, table_rows

DENSE, TENSORLY, FILL = "nn.Embedding", "tensorly-torch", "fill_"


@dataclass(frozen=True, kw_only=True)
class EmbeddingSizes(TableSizes):
    """A table (vocab_size, d_model) of a rank, and how many of its rows are asked for."""

    @property
    def label(self) -> str:
        shape = f"{self.vocab_size:,} x {self.d_model:,}"
        return f"{shape}, {self.tokens:,} tokens, rank {self.rank} {self.dtype}"


def inputs(sizes: EmbeddingSizes, make: Maker) -> tuple[Any, ...]:
    """Ids, then the cores and the angles."""
    return (make.ids(sizes.tokens, size=sizes.vocab_size), *cores(sizes, make))


def ours(sizes: EmbeddingSizes) -> Operation:
    """The kernel."""
    from muse_kernels import tt_embedding

    return partial(tt_embedding, vocab_size=sizes.vocab_size, d_model=sizes.d_model)


def plain(sizes: EmbeddingSizes) -> Operation:
    """Rows of the cores gathered, then multiplied."""
    return partial(table_rows, d_model=sizes.d_model)


def dense(_: EmbeddingSizes) -> Operation:
    """A lookup in a dense table, whose gradient is dense."""
    from torch.nn.functional import embedding

    return embedding


def dense_inputs(sizes: EmbeddingSizes, make: Maker) -> tuple[Any, ...]:
    """Ids and the table."""
    return make.ids(sizes.tokens, size=sizes.vocab_size), make.normal(sizes.vocab_size, sizes.d_model)


def tensorly(_: EmbeddingSizes) -> Operation:
    """tensorly-torch's block tensor-train."""
    return lambda ids, module: module(ids)


def tensorly_inputs(sizes: EmbeddingSizes, make: Maker) -> tuple[Any, ...]:
    """Ids and a module with cores of the same shapes."""
    import tensorly
    import tltorch

    from muse_kernels import tt_shape

    tensorly.set_backend("pytorch")  # its default, numpy, cannot take what lies on a GPU

    vocab, width = tt_shape(sizes.vocab_size), tt_shape(sizes.d_model)

    def build() -> Any:
        return tltorch.FactorizedEmbedding(
            vocab[0] * vocab[1],
            width[0] * width[1],
            auto_tensorize=False,
            tensorized_num_embeddings=vocab,
            tensorized_embedding_dim=width,
            factorization="blocktt",
            rank=sizes.rank,
        )

    # Its forward unravels the ids by NumPy on the host, and so takes none on a GPU; it moves the two indices itself.
    return make.ids(sizes.tokens, size=sizes.vocab_size).cpu(), make.module(build)


def fill(sizes: EmbeddingSizes) -> Operation:
    """What writing the rows takes: they are computed from nothing."""
    return lambda like: like.new_empty(sizes.tokens, sizes.d_model).fill_(1)


def fill_inputs(_: EmbeddingSizes, make: Maker) -> tuple[Any, ...]:
    """One number, for its dtype and device."""
    return (make.normal(1, grad=False),)


def forward(sizes: EmbeddingSizes) -> Work:
    """Reads ids and cores, writes the rows."""
    rows = sizes.tokens * sizes.d_model * sizes.item_bytes
    return Work(sizes.tokens * ID_BYTES + core_bytes(sizes) + rows, 2 * sizes.rank * sizes.tokens * sizes.d_model)


def backward(sizes: EmbeddingSizes) -> Work:
    """Reads ids, cores and the rows' gradients, writes the cores'; each core takes a product."""
    rows = sizes.tokens * sizes.d_model * sizes.item_bytes
    return Work(sizes.tokens * ID_BYTES + 2 * core_bytes(sizes) + rows, 4 * sizes.rank * sizes.tokens * sizes.d_model)


def _issue(rank: int, dtype: Any = "bf16") -> EmbeddingSizes:
    return EmbeddingSizes(vocab_size=50_257, d_model=1_024, tokens=16_384, rank=rank, dtype=dtype)


BENCHMARK = Benchmark(
    about="Rows of a tensor-train table",
    cases=(_issue(4), _issue(16), _issue(16, "fp32")),
    tiny=(EmbeddingSizes(vocab_size=23, d_model=10, tokens=6, rank=2),),
    inputs=inputs,
    ours=ours,
    forward=forward,
    backward=backward,
    peers=(
        eager(plain),
        compiled(plain),
        Contender(name=DENSE, load=dense, inputs=dense_inputs),
        Contender(name=TENSORLY, load=tensorly, inputs=tensorly_inputs),
        Contender(name=FILL, load=fill, inputs=fill_inputs, forward_only=True),
    ),
    goals=(
        Goal(figure="forward", against=LIMIT, factor=1 / 0.8),
        Goal(figure="forward+backward", against=DENSE, factor=1),
        Goal(figure="forward+backward", against=TENSORLY, factor=1 / 5),
    ),
)
