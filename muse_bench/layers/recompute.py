"""A part of the model run without keeping anything for backward but its input, there or in host memory.

Backward runs the part again, a few sequences at a time, and calls back once its parameters have their gradients.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import get_gradient_edge

from muse_bench import scopes
from muse_bench.streaming import traffic
from muse_bench.streaming.memory import HostMemory
from muse_kernels.chunks import slices

Part = Callable[[Tensor], Tensor]
Lend = Callable[[bool], contextlib.AbstractContextManager[None]]
STREAM = "(residual stream)"  # what memory that belongs to no module is attributed to


class HostStore:
    """Places in pinned host memory for the inputs of the parts, one for each, kept from step to step.

    Copies run on the current stream, so what they read or write needs no event. On `meta` nothing is kept, but counted.
    Places are taken from `memory`; without one PyTorch allocates them.
    """

    def __init__(self, memory: HostMemory | None = None) -> None:
        self._memory = memory
        self._places: dict[int, Tensor] = {}
        self._tickets: dict[int, int] = {}
        self._sizes: dict[int, int] = {}  # the most that each place has held: PyTorch keeps what it once pinned

    @property
    def size_bytes(self) -> int:
        """What the places take together, before PyTorch's rounding of what it pins."""
        return sum(self._sizes.values())

    def put(self, index: int, x: Tensor) -> int:
        """Copies x to the place of this index; returns the ticket that `get` asks for."""
        ticket = self._tickets[index] = self._tickets.get(index, 0) + 1
        self._sizes[index] = max(self._sizes.get(index, 0), x.nbytes)
        traffic.to_host(x.nbytes)
        if x.device.type == "meta":
            return ticket
        if not self._fits(index, x):
            self._places.pop(index, None)  # its memory goes before there is more
            self._places[index] = self._place(x)
        self._places[index].copy_(x, non_blocking=True)
        return ticket

    def _fits(self, index: int, x: Tensor) -> bool:
        place = self._places.get(index)
        return place is not None and place.shape == x.shape and place.dtype == x.dtype

    def _place(self, x: Tensor) -> Tensor:
        if self._memory is None:
            return torch.empty(x.shape, dtype=x.dtype, pin_memory=x.is_cuda)
        return self._memory.take(x.nbytes).view(x.dtype).view(x.shape)

    def get(self, index: int, ticket: int, rows: slice, like: Tensor) -> Tensor:
        """These rows of what was put there, on the device, in the shape and dtype of `like`.

        Raises: RuntimeError when something else has been put there since.
        """
        if self._tickets[index] != ticket:
            raise RuntimeError("the model ran forward again before this backward: its checkpoints hold one run")
        x = torch.empty_like(like)
        traffic.to_device(x.nbytes)
        if x.device.type != "meta":
            x.copy_(self._places[index][rows], non_blocking=True)
        return x


def recomputed(
    x: Tensor, part: Part, rows: int, store: HostStore | None, index: int, lend: Lend, done: Callable[[], None] | None
) -> Tensor:
    """x + part(x) for x (batch, ...), `rows` sequences at a time, forwards and backwards.

    Keeps x, or has the store keep it in the place of this index. The part's parameters get their gradients inside
    backward; `done` is called after. `lend(backward)` has its weights at hand while it runs, each time. The gradient of
    x is added to that of the result, in its memory: only the next part may have used the result.
    """
    return Recomputed.apply(x, part, rows, store, index, lend, done)  # type: ignore[no-any-return, no-untyped-call]


class Recomputed(torch.autograd.Function):
    """Of `recomputed`; saves x where there is no store."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        part: Part,
        rows: int,
        store: HostStore | None,
        index: int,
        lend: Lend,
        done: Callable[[], None] | None,
    ) -> Tensor:
        with scopes.scope(STREAM):
            y = torch.empty_like(x)
        with lend(False):
            for some in slices(len(x), rows):
                torch.add(x[some], part(x[some]), out=y[some])
        ctx.part, ctx.rows, ctx.store, ctx.index, ctx.lend, ctx.done = part, rows, store, index, lend, done
        if store is None:
            ctx.save_for_backward(x)
        else:
            ctx.ticket = store.put(index, x)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kept = None if ctx.store is not None else ctx.saved_tensors[0]
        with scopes.scope(STREAM):
            grad = grad.contiguous()
        with ctx.lend(True):
            for some in slices(len(grad), min(ctx.rows, len(grad))):
                with scopes.scope(STREAM):
                    x = ctx.store.get(ctx.index, ctx.ticket, some, grad[some]) if kept is None else kept[some].detach()
                grad[some] += _gradient(ctx.part, x, grad[some])
                del x
            if ctx.done is not None:
                ctx.done()
        return grad, None, None, None, None, None, None


class _Light(torch.autograd.Function):
    """function(*inputs), of which backward keeps the inputs only."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        ctx.function, ctx.module = function, scopes.current()
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        leaves = [x.detach().requires_grad_(need) for x, need in zip(ctx.saved_tensors, needed, strict=True)]
        with scopes.scope(ctx.module):
            with torch.enable_grad():
                y = ctx.function(*leaves)
            found = iter(torch.autograd.grad(y, [leaf for leaf in leaves if leaf.requires_grad], grad))
        return None, *(next(found) if need else None for need in needed)


def light(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """function(*inputs), run again in backward: nothing between its inputs and its output is kept."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    return _Light.apply(function, *inputs)  # type: ignore[no-any-return, no-untyped-call]


def _gradient(part: Part, x: Tensor, grad: Tensor) -> Tensor:
    leaf = x.requires_grad_()
    with torch.enable_grad():
        y = part(leaf)
    root = get_gradient_edge(y)
    del y  # its memory: only its place in the graph is needed
    torch.autograd.backward(root, grad)
    assert leaf.grad is not None
    return leaf.grad
