"""Embeddings alone, as models that a case can name: what an earlier report measured of them."""

from torch import nn

from muse_bench.config import ModelConfig
from muse_bench.layers.embedding import build_embedding


def dense_50000() -> nn.Module:
    """50,000 words, width 1,024."""
    return _table(50_000, 1_024, None)


def train_50000() -> nn.Module:
    """The same as a tensor train of rank 16."""
    return _table(50_000, 1_024, 16)


def dense_10000() -> nn.Module:
    """10,000 words, width 512."""
    return _table(10_000, 512, None)


def train_10000() -> nn.Module:
    """The same as a tensor train of rank 8."""
    return _table(10_000, 512, 8)


def _table(vocab_size: int, d_model: int, rank: int | None) -> nn.Module:
    return build_embedding(
        ModelConfig(
            vocab_size=vocab_size,
            d_model=d_model,
            n_layers=1,
            n_heads=8,
            max_seq_len=1,
            embedding="dense" if rank is None else "htt",
            embedding_rank=rank,
        )
    )
