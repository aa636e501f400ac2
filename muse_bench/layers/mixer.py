"""Sequence mixers: causal attention and the adaptive-rank semiseparable mixer (AR-SSM).

A mixer maps (batch, seq, d_model) to the same shape. With a state from `new_state` it continues a
sequence: it reads and updates what earlier calls left there.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional

from muse_bench.config import Gate, ModelConfig
from muse_bench.layers.local_attention import LocalAttention, WindowCache
from muse_bench.layers.matrix_mixer import MatrixMixer, MatrixState
from muse_bench.layers.quantised import linear_of
from muse_kernels import causal_convolution, gated_scan
from muse_kernels.precision import accumulation_dtype

CONVOLUTION_WIDTH = 3


@dataclass(slots=True)
class KeyValueCache:
    """Keys and values of the tokens so far: (batch, n_heads, max_seq_len, head_dim) each, `length` of them filled."""

    keys: Tensor
    values: Tensor
    length: int = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Stores the new keys and values; returns views of all so far."""
        start, self.length = self.length, self.length + keys.shape[2]
        if self.length > self.keys.shape[2]:
            raise IndexError(f"{self.length} tokens, but the cache holds {self.keys.shape[2]}")
        self.keys[:, :, start : self.length] = keys
        self.values[:, :, start : self.length] = values
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]


class Attention(nn.Module):
    """Causal multi-head attention through scaled_dot_product_attention."""

    def __init__(self, d_model: int, n_heads: int, dropout: float = 0.0, linear: type[nn.Linear] = nn.Linear) -> None:
        super().__init__()
        self.n_heads, self.head_dim, self.dropout = n_heads, d_model // n_heads, dropout
        self.qkv = linear(d_model, 3 * d_model)
        self.out = linear(d_model, d_model)

    def forward(self, x: Tensor, state: KeyValueCache | None = None) -> Tensor:
        batch, seq, d_model = x.shape
        query, key, value = (
            part.view(batch, seq, self.n_heads, self.head_dim).transpose(1, 2)
            for part in self.qkv(x).split(d_model, dim=-1)
        )
        causal, mask = seq > 1, None
        if state is not None:
            key, value = state.append(key, value)
            if causal and state.length > seq:  # new tokens behind those in the cache: SDPA's own mask is a square
                causal, mask = False, x.new_ones(seq, state.length, dtype=torch.bool).tril(state.length - seq)
        mixed = functional.scaled_dot_product_attention(
            query, key, value, mask, dropout_p=self.dropout if self.training else 0.0, is_causal=causal
        )
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, seq, d_model))
        return out

    def new_state(self, batch: int, max_seq_len: int, device: torch.device | None = None) -> KeyValueCache:
        """An empty cache, beside the weights unless told, for sequences of up to max_seq_len tokens."""
        shape = (batch, self.n_heads, max_seq_len, self.head_dim)
        like = self.out.bias  # the weight may be stored as int8
        return KeyValueCache(like.new_zeros(shape, device=device), like.new_zeros(shape, device=device))


class CausalConvolution(nn.Module):
    """Depthwise convolution along the sequence, padded on the left only: token t sees t-2, t-1 and t.

    weight: (width, d_model); the last row weighs the current token. No bias.
    """

    def __init__(self, d_model: int, width: int = CONVOLUTION_WIDTH) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, d_model))
        nn.init.uniform_(self.weight, -(width**-0.5), width**-0.5)

    def forward(self, x: Tensor, before: Tensor | None = None, add: Tensor | None = None) -> Tensor:
        """`before`: the width - 1 tokens ahead of x, (batch, width - 1, d_model), zeros when None; `add`: as x."""
        return causal_convolution(x, self.weight, before, add=add)


@dataclass(slots=True)
class RecurrentState:
    """What an AR-SSM remembers: its state (batch, rank) and the last tokens (batch, width - 1, d_model)."""

    total: Tensor
    before: Tensor


class SemiseparableMixer(nn.Module):
    """Adaptive-rank semiseparable mixer: y = T x + W_o( S(u * g) * (v * g) ), linear in the sequence length.

    u = W_u x and v = W_v x have `rank` channels, g = sigmoid(MLP x) gates them, S is the causal running sum, or
    with `decay` the recurrence h_t = a h_(t-1) + x_t with one learned a per rank; T is a causal convolution.
    """

    def __init__(
        self,
        d_model: int,
        rank: int,
        *,
        decay: bool = False,
        gate: Gate = "soft",
        linear: type[nn.Linear] = nn.Linear,
    ) -> None:
        super().__init__()
        self.d_model, self.rank, self.gate_mode = d_model, rank, gate
        self.local = CausalConvolution(d_model)
        self.u = linear(d_model, rank, bias=False)
        self.v = linear(d_model, rank, bias=False)
        narrow = max(d_model // 4, 1)
        self.gate = nn.Sequential(linear(d_model, narrow), nn.ReLU(), linear(narrow, rank))
        self.out = linear(rank, d_model)
        # sigmoid(2 .. 6) spreads the decays over memories of about 8 to 400 tokens.
        self.decay_logit = nn.Parameter(torch.linspace(2.0, 6.0, rank)) if decay else None

    def forward(self, x: Tensor, state: RecurrentState | None = None) -> Tensor:
        return self._mix(x, self._scores(x), state)

    def mix(self, x: Tensor, state: RecurrentState | None = None) -> tuple[Tensor, Tensor]:
        """The mixed sequence and the gates, (batch, seq, rank), of which a penalty can be taken."""
        scores = self._scores(x)
        return self._mix(x, scores, state), self._gates(scores)

    def gates(self, x: Tensor) -> Tensor:
        """Gates in [0, 1]: soft, hard with the soft gradient, or in training a Gumbel (binary concrete) sample."""
        return self._gates(self._scores(x))

    @torch.no_grad()
    def effective_rank(self, x: Tensor) -> float:
        """How many of the ranks are in use: the mean over tokens of the number of gates above one half."""
        return float((self.gates(x) > 0.5).sum(-1).float().mean())

    def new_state(self, batch: int, max_seq_len: int, device: torch.device | None = None) -> RecurrentState:
        """An empty state, beside the weights unless told; its size does not depend on the length."""
        like = self.out.bias  # the weight may be stored as int8
        return RecurrentState(
            like.new_zeros(batch, self.rank, dtype=accumulation_dtype(like.dtype), device=device),
            like.new_zeros(batch, CONVOLUTION_WIDTH - 1, self.d_model, device=device),
        )

    def _scores(self, x: Tensor) -> Tensor:
        scores: Tensor = self.gate(x)
        if self.gate_mode == "gumbel" and self.training:
            noise = torch.rand_like(scores).clamp_(1e-4, 1 - 1e-4)
            scores = scores + torch.logit(noise)
        return scores

    def _gates(self, scores: Tensor) -> Tensor:
        soft = torch.sigmoid(scores)
        if self.gate_mode == "straight-through":
            return (scores > 0).to(soft.dtype) + (soft - soft.detach())  # 1 + s - s is not always 1
        return soft

    def _mix(self, x: Tensor, scores: Tensor, state: RecurrentState | None) -> Tensor:
        decay = None if self.decay_logit is None else torch.sigmoid(self.decay_logit)
        hard = self.gate_mode == "straight-through"
        initial, before = (None, None) if state is None else (state.total, state.before)
        scanned, total = gated_scan(self.u(x), self.v(x), scores, decay, initial=initial, hard=hard, return_state=True)
        if state is not None:
            state.total = total
            state.before = torch.cat((state.before, x), dim=1)[:, -(CONVOLUTION_WIDTH - 1) :].clone()
        mixed: Tensor = self.local(x, before, add=self.out(scanned))
        return mixed


Mixer = Attention | LocalAttention | SemiseparableMixer | MatrixMixer
State = KeyValueCache | WindowCache | RecurrentState | MatrixState


def state_bytes(state: State) -> int:
    """What a block's decoding state takes, for all sequences of its batch."""
    parts = (getattr(state, part.name) for part in fields(state))
    return sum(part.nbytes for part in parts if isinstance(part, Tensor))


def build_mixer(config: ModelConfig, block: int) -> Mixer:
    """The mixer that the config names for the block of this index."""
    linear, width = linear_of(config), config.mixer_rank or config.d_model
    if config.attention_every is not None and block % config.attention_every == config.attention_every // 2:
        assert config.attention_window is not None  # the config validates it
        return LocalAttention(config.d_model, width, config.n_heads, config.attention_window, linear)
    if config.mixer == "attention":
        return Attention(config.d_model, config.n_heads, config.dropout, linear)
    assert config.mixer_rank is not None  # the config validates it
    if config.mixer == "matrix-ar-ssm":
        assert config.state_size is not None
        assert config.query_heads is not None
        return MatrixMixer(config.d_model, width, config.n_heads, config.state_size, config.query_heads, linear)
    return SemiseparableMixer(config.d_model, width, decay=config.decay, gate=config.gate, linear=linear)
