"""Token embeddings, and their use as a tied head: dense, factorised, and holographic tensor-train (HTT).

Each maps ids (batch, seq) to vectors (batch, seq, d_model), and can serve as the head it is tied to:
`logits(x)` gives (..., vocab_size), `loss(x, targets)` the mean cross-entropy without keeping the logits.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from muse_bench.config import ModelConfig
from muse_kernels import linear_cross_entropy, tensor_train_cross_entropy, tt_embedding, tt_linear, tt_shape

INITIAL_STD = 0.02


class DenseEmbedding(nn.Embedding):
    """One row of d_model values a token."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=INITIAL_STD)

    def logits(self, x: Tensor) -> Tensor:
        """x E^T."""
        return functional.linear(x, self.weight)

    def loss(self, x: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of x E^T against targets, without keeping the logits."""
        return linear_cross_entropy(x.flatten(0, -2), self.weight, targets.flatten())


class LearnedPositions(nn.Embedding):
    """One row of d_model values a position."""

    def forward(self, start: int, end: int) -> Tensor:  # type: ignore[override]
        """The rows from start to end, (end - start, d_model)."""
        return self.weight[start:end]


class FactorisedEmbedding(nn.Module):
    """A row of `rank` values a token, projected to d_model: V x rank x d in place of V x d."""

    def __init__(self, vocab_size: int, d_model: int, rank: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, rank))
        self.up = nn.Parameter(torch.empty(d_model, rank))
        nn.init.normal_(self.weight, std=INITIAL_STD)
        nn.init.normal_(self.up, std=1 / math.sqrt(rank))

    def forward(self, ids: Tensor) -> Tensor:
        return functional.linear(functional.embedding(ids, self.weight), self.up)

    def logits(self, x: Tensor) -> Tensor:
        """(x U) E^T."""
        return functional.linear(x @ self.up, self.weight)

    def loss(self, x: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of (x U) E^T against targets, without keeping the logits."""
        return linear_cross_entropy((x @ self.up).flatten(0, -2), self.weight, targets.flatten())


class TensorTrainEmbedding(nn.Module):
    """Two cores whose outer products, summed over the rank with a phase each, are the rows of the table.

    core1: (v1, rank, d1); core2: (v2, rank, d2); theta: (rank,), with v1 v2 >= vocab_size and d1 d2 >= d_model.
    Neither direction ever holds the vocab_size x d_model table.
    """

    def __init__(self, vocab_size: int, d_model: int, rank: int) -> None:
        super().__init__()
        self.vocab_size, self.d_model = vocab_size, d_model
        (v1, v2), (d1, d2) = tt_shape(vocab_size), tt_shape(d_model)
        self.core1 = nn.Parameter(torch.empty(v1, rank, d1))
        self.core2 = nn.Parameter(torch.empty(v2, rank, d2))
        self.theta = nn.Parameter(torch.empty(rank))
        # A sum of `rank` products, each weighted by a cosine of mean square 1/2, comes out at INITIAL_STD.
        core_std = math.sqrt(INITIAL_STD / math.sqrt(rank / 2))
        nn.init.normal_(self.core1, std=core_std)
        nn.init.normal_(self.core2, std=core_std)
        nn.init.uniform_(self.theta, -math.pi, math.pi)

    def forward(self, ids: Tensor) -> Tensor:
        return tt_embedding(ids, self.core1, self.core2, self.theta, vocab_size=self.vocab_size, d_model=self.d_model)

    def logits(self, x: Tensor) -> Tensor:
        """x E^T, contracted with the cores."""
        return tt_linear(x, self.core1, self.core2, self.theta, vocab_size=self.vocab_size)

    def loss(self, x: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of x E^T against targets, without keeping the logits."""
        return tensor_train_cross_entropy(
            x.flatten(0, -2), self.core1, self.core2, self.theta, targets.flatten(), vocab_size=self.vocab_size
        )


class HybridEmbedding(TensorTrainEmbedding):
    """A tensor-train row, and the row of a low-rank head projected to d_model: HTT(id) + U H[id].

    The head's rows get no gradient from here, so that the head's own gradient is whole as soon as the loss is done.
    """

    def __init__(self, vocab_size: int, d_model: int, rank: int, head_rank: int) -> None:
        super().__init__(vocab_size, d_model, rank)
        self.up = nn.Linear(head_rank, d_model, bias=False)

    def forward(self, ids: Tensor, rows: Tensor | None = None) -> Tensor:
        """`rows`: the head's rows of these ids, (*ids, head_rank)."""
        assert rows is not None
        own = super().forward(ids)
        table: Tensor = self.up(rows.to(own.dtype))
        return own + table


Embedding = DenseEmbedding | FactorisedEmbedding | TensorTrainEmbedding


def build_embedding(config: ModelConfig) -> Embedding:
    """The embedding that the config names."""
    if config.embedding == "dense":
        return DenseEmbedding(config.vocab_size, config.d_model)
    assert config.embedding_rank is not None  # the config validates it
    if config.embedding == "hybrid":
        assert config.head_rank is not None
        return HybridEmbedding(config.vocab_size, config.d_model, config.embedding_rank, config.head_rank)
    kind = TensorTrainEmbedding if config.embedding == "htt" else FactorisedEmbedding
    return kind(config.vocab_size, config.d_model, config.embedding_rank)
