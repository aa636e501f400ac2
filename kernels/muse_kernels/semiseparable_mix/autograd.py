"""The mix by chunks in plain torch: products within a chunk, and a state carried from one to the next."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from muse_kernels.chunks import slices
from muse_kernels.precision import accumulation_dtype

CHUNK = 64  # steps: the work within chunks grows with them, the number of operations falls


class SemiseparableMix(torch.autograd.Function):
    """Saves its inputs; the backward computes the states before the chunks again."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, initial: Tensor | None, wants_final: bool
    ) -> tuple[Tensor, Tensor | None]:
        ctx.save_for_backward(q, k, v, log_decay, initial)
        ctx.set_materialize_grads(False)
        o, state = v.new_empty(v.shape), _first_state(q, v, initial)
        for part in slices(v.shape[1], CHUNK):
            chunk = _Chunk.cut(q, k, v, log_decay, part)
            inner = (chunk.q @ chunk.k.mT).mul_(chunk.pairs) @ chunk.v
            o[:, part] = inner.add_((chunk.q @ state).mul_(chunk.arriving)).transpose(1, 2)
            state = chunk.next_state(state)
        return o, state if wants_final else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, grad_final: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, log_decay, initial = ctx.saved_tensors
        parts, states = list(slices(v.shape[1], CHUNK)), [_first_state(q, v, initial)]
        for part in parts[:-1]:
            states.append(_Chunk.cut(q, k, v, log_decay, part).next_state(states[-1]))
        grads = tuple(tensor.new_empty(tensor.shape) for tensor in (q, k, v, log_decay))
        grad = v.new_zeros(v.shape) if grad is None else grad
        grad_state = torch.zeros_like(states[0]) if grad_final is None else grad_final
        for part in reversed(parts):
            chunk = _Chunk.cut(q, k, v, log_decay, part)
            pieces, grad_state = _gradients(chunk, _heads_first(grad, part), states.pop(), grad_state)
            for whole, piece in zip(grads, pieces, strict=True):
                repeats = v.shape[2] // whole.shape[2]  # heads that share a query or key stand side by side
                summed = piece if repeats == 1 else piece.unflatten(1, (-1, repeats)).sum(2)
                whole[:, part] = summed.transpose(1, 2)
        return *grads, grad_state if initial is not None else None, None


@dataclass(frozen=True)
class _Chunk:
    """q, k (batch, heads, steps, N) and v; what decays between two steps, up to each, from each on, and over all."""

    q: Tensor
    k: Tensor
    v: Tensor
    pairs: Tensor
    arriving: Tensor
    leaving: Tensor
    through: Tensor

    @staticmethod
    def cut(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, part: slice) -> "_Chunk":
        wide, repeats = accumulation_dtype(v.dtype), v.shape[2] // q.shape[2]
        q, k = (_heads_first(tensor, part).repeat_interleave(repeats, 1) for tensor in (q, k))
        # Sums in float64: in float32, one strong decay would leave no digits for the weak ones after it. The least
        # decays to zero, and its multiples are finite.
        lowest = -104.0 if wide == torch.float32 else -746.0
        since = log_decay[:, part].transpose(1, 2).double().clamp(min=lowest).cumsum(-1).unsqueeze(-1)
        pairs = (since - since.mT).to(wide)
        later = torch.ones(pairs.shape[-2:], dtype=torch.bool, device=pairs.device).triu_(1)
        return _Chunk(
            q,
            k,
            _heads_first(v, part),
            pairs.masked_fill_(later, float("-inf")).exp_(),
            since.exp().to(wide),
            (since[..., -1:, :] - since).exp_().to(wide),
            since[..., -1:, :].exp().to(wide),
        )

    def next_state(self, state: Tensor) -> Tensor:
        """The state after the chunk."""
        return torch.addcmul((self.k * self.leaving).mT @ self.v, state, self.through)


def _gradients(
    chunk: _Chunk, grad: Tensor, state: Tensor, grad_state: Tensor
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Gradients of q, k, v and log_decay in a chunk, (batch, heads, steps, ..), and of the state before it.

    A step's decay scales whatever passes from before it to it or beyond: pairs within the chunk, what arrives from
    the state, what leaves for the next one, and what passes through. No term is a difference of larger ones.
    """
    scores, slopes = (chunk.q @ chunk.k.mT).mul_(chunk.pairs), grad @ chunk.v.mT
    grad_v = (scores.mT @ grad).add_((chunk.k @ grad_state).mul_(chunk.leaving))
    flow = scores.mul_(slopes).tril_(-1).cumsum_(-1).roll(1, -1)  # (.., later step, all steps before this one)
    flow[..., 0] = 0
    slopes.mul_(chunk.pairs)
    arriving = (grad @ state.mT).mul_(chunk.arriving)
    leaving = (chunk.v @ grad_state.mT).mul_(chunk.leaving)
    through = (state * grad_state).sum((-2, -1)).mul_(chunk.through[..., 0, 0]).unsqueeze(-1)
    ends, starts = (chunk.q * arriving).sum(-1), (chunk.k * leaving).sum(-1)
    grad_log = flow.tril_().sum(-2).add_(ends.flip(-1).cumsum(-1).flip(-1)).add_(through)
    grad_log[..., 1:] += starts.cumsum(-1)[..., :-1]
    grad_before = torch.addcmul((chunk.q * chunk.arriving).mT @ grad, grad_state, chunk.through)
    return (arriving.add_(slopes @ chunk.k), leaving.add_(slopes.mT @ chunk.q), grad_v, grad_log), grad_before


def _first_state(q: Tensor, v: Tensor, initial: Tensor | None) -> Tensor:
    if initial is not None:
        return initial.clone()  # an output of an empty sequence is not its input
    return v.new_zeros(v.shape[0], v.shape[2], q.shape[-1], v.shape[3], dtype=accumulation_dtype(v.dtype))


def _heads_first(x: Tensor, part: slice) -> Tensor:
    return x[:, part].transpose(1, 2).to(accumulation_dtype(x.dtype))
