"""Output heads: hidden vectors to logits over the vocabulary, or straight to the loss.

A head offers `logits(x)`, (..., d_model) to (..., vocab_size), and `loss(x, targets)`, the mean
cross-entropy that never keeps the logits. A tied head is the embedding itself.
"""

from torch import Tensor, nn
from torch.nn import functional

from muse_bench.config import ModelConfig
from muse_bench.layers.embedding import Embedding
from muse_bench.layers.quantised import Int8Linear
from muse_kernels import linear_cross_entropy
from muse_kernels.precision import accumulation_dtype


class DenseHead(nn.Module):
    """One linear layer, d_model to vocab_size."""

    def __init__(self, d_model: int, vocab_size: int, *, bias: bool) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, vocab_size, bias=bias)

    def logits(self, x: Tensor) -> Tensor:
        """W x + b."""
        logits: Tensor = self.up(x)
        return logits

    def loss(self, x: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of the logits against targets, without keeping the logits."""
        return linear_cross_entropy(x.flatten(0, -2), self.up.weight, targets.flatten(), bias=self.up.bias)


class LowRankHead(DenseHead):
    """Two linear layers, d_model to rank to vocab_size."""

    def __init__(self, d_model: int, rank: int, vocab_size: int, *, bias: bool) -> None:
        super().__init__(rank, vocab_size, bias=bias)
        self.down = nn.Linear(d_model, rank, bias=bias)

    def rows(self, ids: Tensor) -> Tensor:
        """The table's rows of these ids, (*ids, rank), without a gradient."""
        rows = functional.embedding(ids, self.up.weight.detach())
        if isinstance(self.up, Int8Linear):
            return rows * self.up.scale[ids].unsqueeze(-1)
        return rows

    def logits(self, x: Tensor) -> Tensor:
        """W_up (W_down x + b_down) + b_up."""
        return super().logits(self.down(x))

    def loss(self, x: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of the logits against targets, without keeping the logits."""
        return super().loss(self.down(x), targets)


Head = DenseHead | Embedding


def build_head(config: ModelConfig) -> DenseHead | None:
    """The head that the config names; None when the embedding serves as the head."""
    if config.head == "tied":
        return None
    if config.head == "dense":
        return DenseHead(config.d_model, config.vocab_size, bias=config.head_bias)
    assert config.head_rank is not None  # the config validates it
    return LowRankHead(config.d_model, config.head_rank, config.vocab_size, bias=config.head_bias)


def plain_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of (batch, seq, vocab) logits, the log-softmax in float32 (float64 for float64)."""
    wide = logits.flatten(0, -2).to(accumulation_dtype(logits.dtype))
    return functional.cross_entropy(wide, targets.flatten())
