"""The mix by Triton: a forward of one or two launches, a backward of two or three, one more for shared queries."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from muse_kernels.implementation import launches
from muse_kernels.semiseparable_mix.plan import operand_dtype, plan


class FusedSemiseparableMix(torch.autograd.Function):
    """Saves its inputs; the backward computes the states before the chunks again."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, initial: Tensor | None, wants_final: bool
    ) -> tuple[Tensor, Tensor | None]:
        ctx.save_for_backward(q, k, v, log_decay, initial)
        ctx.set_materialize_grads(False)
        batch, seq, heads, value_dim = v.shape
        cut = plan(batch * heads, seq, v.dtype)
        shape = (batch, heads, q.shape[-1], value_dim)
        o = v.new_empty(v.shape)
        final = v.new_empty(shape, dtype=torch.float32) if wants_final else None
        count = batch * heads * cut.segments if cut.segments > 1 else 0
        states = v.new_empty(count, q.shape[-1], value_dim, dtype=torch.float32)
        decays = v.new_empty(count, dtype=torch.float32)
        if launches(o):
            from muse_kernels.semiseparable_mix.kernel import mix

            q, k, v = rows(q), rows(k), rows(v)
            mix(q, k, v, log_decay, _matrix(initial), states, decays, o, final, cut)
        elif final is not None:  # of an empty sequence
            final.zero_() if initial is None else final.copy_(initial)
        return o, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, grad_final: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, log_decay, initial = ctx.saved_tensors
        grad = v.new_zeros(v.shape) if grad is None else grad
        return *_backward(q, k, v, log_decay, initial, grad, grad_final), None


def _backward(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, initial: Tensor | None, grad: Tensor, grad_final: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Gradients of q, k, v, log_decay and the initial state."""
    grad_q, grad_k, grad_v = q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)
    grad_log = log_decay.new_empty(log_decay.shape)
    grad_initial = None if initial is None else initial.new_empty(initial.shape)
    batch, seq, heads, _ = v.shape
    cut = plan(batch * heads, seq, v.dtype)
    scratch = _scratch(q, v, cut.segments, cut.chunks)
    shared = heads != q.shape[2]
    parts = q.new_empty(2, batch, seq, heads, q.shape[-1], dtype=torch.float32) if shared else None
    if launches(grad_v):
        from muse_kernels.semiseparable_mix.gradient_kernel import mix_gradients, sum_groups

        inputs = (rows(q), rows(k), rows(v), log_decay, _matrix(initial), rows(grad), _matrix(grad_final))
        heads_grad_q, heads_grad_k = (grad_q, grad_k) if parts is None else (parts[0], parts[1])
        mix_gradients(*inputs, scratch, heads_grad_q, heads_grad_k, grad_v, grad_log, grad_initial, cut)
        if parts is not None:
            sum_groups(parts, grad_q, grad_k)
    elif grad_initial is not None:
        grad_initial.zero_() if grad_final is None else grad_initial.copy_(grad_final)
    return grad_q, grad_k, grad_v, grad_log, grad_initial


def _scratch(q: Tensor, v: Tensor, segments: int, chunks: int) -> tuple[Tensor, Tensor, Tensor]:
    """What each segment adds to the state and to its gradient, what it leaves, and both states around each chunk."""
    batch, _, heads, value_dim = v.shape
    sequences, matrix = batch * heads, (q.shape[-1], value_dim)
    slots = sequences * segments if segments > 1 else 0
    return (
        v.new_empty(2, slots, *matrix, dtype=torch.float32),
        v.new_empty(slots, dtype=torch.float32),
        v.new_empty(2, sequences * chunks, *matrix, dtype=operand_dtype(v.dtype)),
    )


def rows(x: Tensor) -> Tensor:
    """The tensor, copied where its last dimension is not consecutive: kernels read the others at any distance."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _matrix(state: Tensor | None) -> Tensor | None:
    return None if state is None else state.contiguous()
