"""A large table in host memory, such as that of a head: on the device as a whole, or a slice of its rows at a time."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from muse_bench import scopes
from muse_bench.streaming import traffic
from muse_bench.streaming.memory import HostMemory
from muse_bench.streaming.page import Page
from muse_bench.streaming.ring import WEIGHTS
from muse_bench.streaming.weights import HostWeights, OptimizerState, state_page
from muse_kernels.chunks import slices
from muse_kernels.precision import accumulation_dtype

SLICE_BYTES = 1 << 20  # of rows, or of their logits


class HostTable:
    """One large parameter in host memory that is on the device as a whole between `fetch` and `release`.

    Memory on the device: the table while it is there, and its optimizer state while it is updated, where the memory in
    which the weights of parts take turns is too small for that, or taken.
    """

    def __init__(self, table: nn.Parameter, weights: HostWeights, memory: HostMemory | None = None) -> None:
        self._table, self.page, self._weights, self._memory = table, Page([table], memory), weights, memory
        self._state: Page | None = None
        self.optimizer_state: OptimizerState | None = None
        self._lent = contextlib.ExitStack()  # what it lies in on the device

    @property
    def rows(self) -> int:
        """How many it has."""
        return len(self._table)

    @property
    def values(self) -> Tensor | None:
        """The table in host memory; None on `meta`."""
        return None if self.page.host is None else self.page.values()[0]

    def fetch(self) -> None:
        """The table is on the device from here on."""
        _show(self.page, self._lent.enter_context(self._weights.borrow(self.page.size_bytes)))

    def release(self, *, keep: bool) -> None:
        """It no longer is; with `keep`, what it has become is kept."""
        _hide(self.page, keep=keep)
        self._lent.close()

    def logits(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x table^T + bias for x (..., width), a slice of the table at a time; its gradient stays in host memory."""
        return _Logits.apply(x, bias, self)  # type: ignore[no-any-return, no-untyped-call]

    def slices(self, most: int) -> Iterator[tuple[slice, Tensor]]:
        """Which rows, and the rows, at most so many at a time: each slice is gone when the next is asked for."""
        count, width = self._table.shape
        row_bytes = width * self._table.element_size()
        with self._weights.borrow(row_bytes) as memory:
            if memory is None:
                with scopes.scope(WEIGHTS):
                    memory = torch.empty(max(SLICE_BYTES, row_bytes), dtype=torch.uint8, device=self._table.device)
            for some in slices(count, min(most, len(memory) // row_bytes)):
                rows = memory[: (some.stop - some.start) * row_bytes].view(self._table.dtype).view(-1, width)
                traffic.to_device(rows.nbytes)
                if self.values is not None:
                    rows.copy_(self.values[some], non_blocking=True)
                yield some, rows

    @contextlib.contextmanager
    def updating(self) -> Iterator[None]:
        """Its optimizer state is on the device, and what it becomes is kept."""
        if self._state is not None:
            with self._weights.borrow(self._state.size_bytes) as memory:
                _show(self._state, memory)
                yield
                _hide(self._state, keep=True)
            return
        yield
        self._state = state_page([self._table], self.optimizer_state, self._memory)

    def host_bytes(self) -> dict[str, int]:
        """What lies in host memory."""
        return {**self.page.host_bytes, "optimizer state": self._state.size_bytes if self._state else 0}


class _Logits(torch.autograd.Function):
    """Of `HostTable.logits`; saves x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, table: HostTable) -> Tensor:
        ctx.save_for_backward(x)
        ctx.table, ctx.biased = table, bias is not None
        logits = x.new_empty(*x.shape[:-1], table.rows)
        for some, rows in table.slices(_rows_at_once(x)):
            logits[..., some] = functional.linear(x, rows, None if bias is None else bias[some])
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        flat, table = x.flatten(0, -2), ctx.table
        grad_x = torch.zeros(flat.shape, dtype=accumulation_dtype(x.dtype), device=x.device)
        sums = []
        for some, rows in table.slices(_rows_at_once(x)):
            part = grad[..., some].reshape(len(flat), -1).contiguous()  # that of a sum comes expanded
            grad_x += part @ rows
            table.page.add_gradient(0, some, part.t() @ flat)
            if ctx.biased:
                sums.append(part.t() @ part.new_ones(len(part)))
        table.page.kept.add(0)
        return grad_x.to(x.dtype).view(x.shape), torch.cat(sums) if ctx.biased else None, None


def _rows_at_once(x: Tensor) -> int:
    """So many that their logits stay near SLICE_BYTES."""
    return max(1, SLICE_BYTES * x.shape[-1] // (x.numel() * x.element_size()))


def _show(page: Page, memory: Tensor | None = None) -> None:
    if memory is None:
        with scopes.scope(WEIGHTS):
            memory = torch.empty(page.size_bytes, dtype=torch.uint8, device=page.device)
    traffic.to_device(page.size_bytes)
    if page.host is not None:
        memory[: page.size_bytes].copy_(page.host, non_blocking=True)
    page.show(memory)


def _hide(page: Page, *, keep: bool) -> None:
    if keep:
        traffic.to_host(sum(tensor.nbytes for tensor in page.tensors))
    if keep and page.host is not None:
        for kept, value in zip(page.values(), page.tensors, strict=True):
            kept.copy_(value.detach(), non_blocking=True)
    page.hide()
