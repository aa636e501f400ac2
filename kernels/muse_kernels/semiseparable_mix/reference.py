"""Matrix-state recurrence: the definition, a loop over time."""

import torch
from torch import Tensor

from muse_kernels.precision import accumulation_dtype


def semiseparable_mix(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """o_t = q_t^T S_t with S_t = exp(log_decay_t) S_{t-1} + k_t v_t^T; also the last S."""
    batch, seq, heads, value_dim = v.shape
    wide, repeats = accumulation_dtype(v.dtype), heads // q.shape[2]
    q, k = (tensor.to(wide).repeat_interleave(repeats, 2) for tensor in (q, k))
    state = v.new_zeros(batch, heads, q.shape[-1], value_dim, dtype=wide) if initial_state is None else initial_state
    outputs = []
    for t in range(seq):
        state = log_decay[:, t].to(wide).exp()[..., None, None] * state
        state = state + k[:, t].unsqueeze(-1) * v[:, t].unsqueeze(-2)
        outputs.append((q[:, t].unsqueeze(-2) @ state).squeeze(-2))
    o = torch.stack(outputs, 1) if outputs else v * 1
    return o.to(v.dtype), state
