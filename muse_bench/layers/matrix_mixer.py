"""The matrix-state AR-SSM: an adaptive-rank semiseparable mixer whose heads remember a matrix each."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from muse_bench.layers.recompute import light
from muse_kernels import causal_convolution, discretise, gated_rms_norm, semiseparable_mix
from muse_kernels.precision import accumulation_dtype

CONVOLUTION_WIDTH = 4
STEP_RANGE = (1e-3, 1e-1)
RATE_RANGE = (1.0, 16.0)


@dataclass(slots=True)
class MatrixState:
    """S of each head (batch, heads, state_size, width / heads), and the last tokens that the convolution saw,
    (batch, 3, channels)."""

    memory: Tensor
    before: Tensor


class MatrixMixer(nn.Module):
    """y = W_o( rms_norm( q^T S + skip v ) * silu(gate) ), with S_t = exp(-rate step_t) S_(t-1) + k_t (step_t v_t)^T.

    q, k (query_heads x state_size), v and the gate (width), and a step a head come from projections of x; q, k and v
    pass a short causal convolution and SiLU first. Heads share the queries and keys of their group. How much of the
    rank a token takes up is its step: near zero the state stays as it is. Linear in the sequence length.
    Source: Dao and Gu 2024, arXiv:2405.21060; Yang et al. 2024, arXiv:2312.06635 (gates).
    """

    def __init__(
        self,
        d_model: int,
        width: int,
        heads: int,
        state_size: int,
        query_heads: int,
        linear: type[nn.Linear] = nn.Linear,
    ) -> None:
        super().__init__()
        self.width, self.heads, self.state_size, self.query_heads = width, heads, state_size, query_heads
        self.keys = query_heads * state_size
        self.channels = 2 * self.keys + width
        self.project = linear(d_model, self.channels, bias=False)
        self.gates = linear(d_model, width + heads, bias=False)
        self.taps = nn.Parameter(torch.empty(CONVOLUTION_WIDTH, self.channels))
        self.step_bias = nn.Parameter(torch.empty(heads))
        self.rate_log = nn.Parameter(torch.empty(heads))
        self.skip = nn.Parameter(torch.ones(heads))
        self.norm = nn.Parameter(torch.ones(width))
        self.out = linear(width, d_model, bias=False)
        nn.init.uniform_(self.taps, -(CONVOLUTION_WIDTH**-0.5), CONVOLUTION_WIDTH**-0.5)
        with torch.no_grad():
            # Memories from about 1 / (16 * 0.1) to 1 / 0.001 tokens, spread evenly over the heads.
            spread = torch.linspace(0, 1, heads)
            low, high = map(math.log, STEP_RANGE)
            self.step_bias.copy_(torch.log(torch.expm1(torch.exp(high + (low - high) * spread))))
            low, high = map(math.log, RATE_RANGE)
            self.rate_log.copy_(high + (low - high) * spread)

    def forward(self, x: Tensor, state: MatrixState | None = None) -> Tensor:
        gate, steps = self.gates(x).split((self.width, self.heads), dim=-1)
        mixed = self.project(x)
        before = None
        if state is not None:
            before = state.before
            state.before = torch.cat((state.before, mixed), dim=1)[:, -(CONVOLUTION_WIDTH - 1) :].clone()
        mixed = light(_convolve, mixed, self.taps) if before is None else _convolve(mixed, self.taps, before)
        q, k, v = mixed.split((self.keys, self.keys, self.width), dim=-1)
        q, k = (part.unflatten(-1, (self.query_heads, self.state_size)) for part in (q, k))
        v = v.unflatten(-1, (self.heads, -1))
        log_decay, taken = discretise(v, steps, self.step_bias, self.rate_log)
        if state is None:
            read = semiseparable_mix(q, k, taken, log_decay)
        else:
            read, state.memory = semiseparable_mix(
                q, k, taken, log_decay, initial_state=state.memory, return_final_state=True
            )
        assert isinstance(read, Tensor)
        out: Tensor = self.out(gated_rms_norm(read, v, self.skip, gate, self.norm))
        return out

    def new_state(self, batch: int, max_seq_len: int, device: torch.device | None = None) -> MatrixState:
        """An empty state, beside the weights unless told; its size does not depend on the length."""
        like = self.norm  # the weights may be stored as int8
        shape = (batch, self.heads, self.state_size, self.width // self.heads)
        return MatrixState(
            like.new_zeros(shape, dtype=accumulation_dtype(like.dtype), device=device),
            like.new_zeros(batch, CONVOLUTION_WIDTH - 1, self.channels, device=device),
        )


def _convolve(x: Tensor, taps: Tensor, before: Tensor | None = None) -> Tensor:
    return functional.silu(causal_convolution(x, taps, before))
