"""How many parameters a configuration has, by formula, before anything is built. Imports no torch."""

import math

from muse_bench.config import ModelConfig


def count_parameters(config: ModelConfig) -> int:
    """The parameters of the language model that this configuration builds, each shared one once."""
    positions = config.max_seq_len * config.d_model if config.positions == "learned" else 0
    last_norm = 0 if config.block == "encoder" else _norm(config)
    return _embedding(config) + positions + _blocks(config) + last_norm + _head(config)


def _blocks(config: ModelConfig) -> int:
    """All of them: those that attend inside windows, and the others."""
    if config.block == "encoder":
        return config.n_layers * _encoder_block(config.d_model)
    every, windows = config.attention_every, 0
    if every is not None:
        windows = (config.n_layers + every - 1 - every // 2) // every  # the blocks at every // 2, and so on
    norms = 1 if config.shared_norm else 2
    rest = config.n_layers * (norms * _norm(config) + _ffn(config))
    return rest + windows * _window_attention(config) + (config.n_layers - windows) * _mixer(config)


def _encoder_block(d: int) -> int:
    """Attention and a feed-forward part of four times the width, with biases, and two LayerNorms."""
    return _linear(d, 3 * d) + _linear(d, d) + _linear(d, 4 * d) + _linear(4 * d, d) + 4 * d


def _linear(width: int, out: int, *, bias: bool = True) -> int:
    return width * out + (out if bias else 0)


def _norm(config: ModelConfig) -> int:
    return config.d_model * (2 if config.norm == "layer-norm" else 1)


def _embedding(config: ModelConfig) -> int:
    vocab, d = config.vocab_size, config.d_model
    if config.embedding == "dense":
        return vocab * d
    rank = config.embedding_rank or 0
    if config.embedding == "factorised":
        return (vocab + d) * rank
    (v1, v2), (d1, d2) = _factors(vocab), _factors(d)
    cores = (v1 * d1 + v2 * d2 + 1) * rank
    return cores + ((config.head_rank or 0) * d if config.embedding == "hybrid" else 0)


def _factors(size: int) -> tuple[int, int]:
    """Those of a tensor-train mode."""
    first = math.isqrt(size - 1) + 1
    return first, -(-size // first)


def _mixer(config: ModelConfig) -> int:
    d, rank = config.d_model, config.mixer_rank or 0
    if config.mixer == "attention":
        return _linear(d, 3 * d) + _linear(d, d)
    if config.mixer == "matrix-ar-ssm":
        return _matrix_mixer(config, rank)
    gate = _linear(d, max(d // 4, 1)) + _linear(max(d // 4, 1), rank)
    convolution, decays = 3 * d, rank if config.decay else 0
    return convolution + 2 * d * rank + gate + _linear(rank, d) + decays


def _matrix_mixer(config: ModelConfig, width: int) -> int:
    d, heads = config.d_model, config.n_heads
    channels = width + 2 * (config.query_heads or 0) * (config.state_size or 0)
    projections = d * channels + d * (width + heads) + width * d
    taps, of_heads = 4 * channels, 3 * heads
    return projections + taps + of_heads + width


def _window_attention(config: ModelConfig) -> int:
    d, heads = config.d_model, config.n_heads
    width = config.mixer_rank or d
    head_dim, key_heads = width // heads, heads if heads % 2 else heads // 2
    return d * (width + 2 * key_heads * head_dim) + 2 * head_dim + width * d


def _ffn(config: ModelConfig) -> int:
    d, rank = config.d_model, config.ffn_rank or 0
    if config.ffn == "dense":
        return _linear(d, 4 * d) + _linear(4 * d, d)
    outer = _linear(d, rank) + _linear(rank, d)
    return outer if config.ffn == "low-rank" else outer + _linear(rank, 4 * d) + _linear(4 * d, rank)


def _head(config: ModelConfig) -> int:
    d, vocab, bias = config.d_model, config.vocab_size, config.head_bias
    if config.head == "tied":
        return 0
    if config.head == "dense":
        return _linear(d, vocab, bias=bias)
    rank = config.head_rank or 0
    return _linear(d, rank, bias=bias) + _linear(rank, vocab, bias=bias)
