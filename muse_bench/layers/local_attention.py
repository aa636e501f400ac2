"""Attention inside windows: exact recall of what is near, at a cost that is linear in the sequence."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from muse_kernels import rms_norm

SHARING = 2  # heads that share keys and values


@dataclass(slots=True)
class WindowCache:
    """Keys and values of the window at hand, (batch, key heads, window, head_dim) each, `length` of them filled."""

    keys: Tensor
    values: Tensor
    length: int = 0


class LocalAttention(nn.Module):
    """Causal attention in which a token sees those before it in its own window of the sequence.

    Queries and keys are normalised by head, and carry no positions: what came before the window, and where in the text
    a token is, is left to mixers with a state. Where heads are even in number, two share keys and values. The cache
    holds one window, however long the text.
    Source: Henry et al. 2020, arXiv:2010.04245 (normalised queries and keys); Ainslie et al. 2023, arXiv:2305.13245
        (shared keys and values).
    """

    def __init__(self, d_model: int, width: int, heads: int, window: int, linear: type[nn.Linear] = nn.Linear) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.key_heads = heads if heads % SHARING else heads // SHARING
        self.head_dim = width // heads
        self.qkv = linear(d_model, width + 2 * self.key_heads * self.head_dim, bias=False)
        self.query_norm = nn.Parameter(torch.ones(self.head_dim))
        self.key_norm = nn.Parameter(torch.ones(self.head_dim))
        self.out = linear(width, d_model, bias=False)

    def forward(self, x: Tensor, state: WindowCache | None = None) -> Tensor:
        mixed = self._windows(self.qkv(x)) if state is None else self._continue(self.qkv(x), state)
        out: Tensor = self.out(mixed.flatten(2))
        return out

    def _split(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v, (batch, seq, heads, head_dim) each."""
        q, k, v = projected.unflatten(-1, (-1, self.head_dim)).split((self.heads, self.key_heads, self.key_heads), 2)
        return q, k, v

    def new_state(self, batch: int, max_seq_len: int, device: torch.device | None = None) -> WindowCache:
        """An empty cache, beside the weights unless told, of the window's size, or the text's where that is shorter."""
        like = self.key_norm  # the weights may be stored as int8
        shape = (batch, self.key_heads, min(self.window, max_seq_len), self.head_dim)
        return WindowCache(like.new_zeros(shape, device=device), like.new_zeros(shape, device=device))

    def _windows(self, projected: Tensor) -> Tensor:
        """Whole windows side by side as rows of a batch, then what is left."""
        q, k, v = self._split(projected)
        q, k = rms_norm(q, self.query_norm), rms_norm(k, self.key_norm)
        seq = q.shape[1]
        if seq <= self.window:
            return _attend(q, k, v)
        whole = seq // self.window * self.window
        rows = (part[:, :whole].unflatten(1, (-1, self.window)).flatten(0, 1) for part in (q, k, v))
        mixed: Tensor = _attend(*rows).unflatten(0, (q.shape[0], -1)).flatten(1, 2)
        if whole == seq:
            return mixed
        return torch.cat((mixed, _attend(*(part[:, whole:] for part in (q, k, v)))), dim=1)

    def _continue(self, projected: Tensor, state: WindowCache) -> Tensor:
        """New tokens behind those in the cache, which begins again with each window."""
        pieces, start, seq = [], 0, projected.shape[1]
        while start < seq:
            if state.length == self.window:
                state.length = 0
            stop = min(seq, start + self.window - state.length)
            q = self._remember(projected[:, start:stop], state)
            start = stop
            if start == seq:
                del projected  # its memory, before attention takes some
            seen = (part[:, :, : state.length].transpose(1, 2) for part in (state.keys, state.values))
            q = rms_norm(q, self.query_norm)
            pieces.append(_attend(q, *seen))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)

    def _remember(self, projected: Tensor, state: WindowCache) -> Tensor:
        """Keys and values of the new tokens go to the cache; returns their queries."""
        q, k, v = self._split(projected)
        before, state.length = state.length, state.length + q.shape[1]
        if state.length > state.keys.shape[2]:
            raise IndexError(f"{state.length} tokens, but the cache holds {state.keys.shape[2]}")
        state.keys[:, :, before : state.length] = rms_norm(k, self.key_norm).transpose(1, 2)
        state.values[:, :, before : state.length] = v.transpose(1, 2)
        return q.contiguous()


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(batch, new, heads, head_dim): each of the last tokens of k and v sees those up to itself."""
    new, all_of_them = q.shape[1], k.shape[1]
    causal, mask = new > 1, None
    if causal and all_of_them > new:  # SDPA's own mask is a square
        causal, mask = False, q.new_full((new, all_of_them), -torch.inf).triu_(all_of_them - new + 1)
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    grouped = q.shape[1] != k.shape[1]
    mixed = functional.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, enable_gqa=grouped)
    return mixed.transpose(1, 2)
