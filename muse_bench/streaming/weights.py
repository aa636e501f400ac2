"""A model's weights in host memory, with the optimizer's state for them: what each part needs is lent to it in turn."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from muse_bench import scopes
from muse_bench.streaming.lane import Lane
from muse_bench.streaming.page import Page
from muse_bench.streaming.ring import WEIGHTS, Ring
from muse_kernels.chunks import slices

SLICE_BYTES = 1 << 22
OptimizerState = Mapping[Any, Mapping[str, Any]]


class HostWeights:
    """The matrices of the parts of a model, a page a part; parts run in order, backwards in reverse.

    Vectors stay on the device. Each part has a matrix or more.

    A part that is updated in backward keeps what its weights and their optimizer state become. Copies of the next
    part run beside the computation of this one.
    Memory on the device: the weights of the largest part once for each slot, and twice the largest state in training.
    """

    def __init__(self, parts: Sequence[Sequence[nn.Parameter]]) -> None:
        device = parts[0][0].device
        self._inward, self._outward = Lane(device), Lane(device)
        self._parts = [[parameter for parameter in part if parameter.dim() > 1] for part in parts]
        self._weights = Ring([Page(part) for part in self._parts], self._inward, self._outward)
        self._state: Ring | None = None
        self._state_pages: dict[int, Page] = {}
        self.optimizer_state: OptimizerState | None = None  # whose tensors move to host memory as they appear

    def __len__(self) -> int:
        return len(self._parts)

    def begin(self, slots: int) -> None:
        """A pass begins, with this many slots or more: host memory holds what counts."""
        self._weights.begin(slots)
        if self._state is not None:
            self._state.begin(slots)
        self._inward.begin()
        self._outward.begin()

    @contextlib.contextmanager
    def at_hand(self, index: int, following: int | None, *, update: bool = False) -> Iterator[None]:
        """A part's weights are on the device, with `update` its optimizer state too, and what they become is kept."""
        state = self._state_at_hand(index, following) if update else contextlib.nullcontext()
        with self._weights.lend(index, following, keep=update), state:
            yield
        if update and following is None:
            self._outward.finish()

    def borrow(self, size_bytes: int) -> contextlib.AbstractContextManager[Tensor | None]:
        """The device memory in which weights take turns, for another use between two parts; None if it is too small."""
        return self._weights.borrow(size_bytes)

    @property
    def pages(self) -> Sequence[Page]:
        """Where the weights lie."""
        return self._weights.pages

    def host_bytes(self) -> dict[str, int]:
        """What lies in host memory."""
        state = list(self._state_pages.values())
        return {"weights": _size(self._weights.pages), "optimizer state": _size(state)}

    @contextlib.contextmanager
    def _state_at_hand(self, index: int, following: int | None) -> Iterator[None]:
        if self._state is None:
            yield
            self._adopt(index)
            return
        with self._state.lend(index, following, keep=True):
            yield

    def _adopt(self, index: int) -> None:
        """Moves the part's new optimizer state to host memory; once all have some, it goes round as weights do."""
        page = _state_page(self._parts[index], self.optimizer_state)
        if page is None:
            return
        self._state_pages[index] = page
        if len(self._state_pages) == len(self._parts):
            pages = [self._state_pages[place] for place in range(len(self._parts))]
            self._state = Ring(pages, self._inward, self._outward)


class HostTable:
    """One large parameter in host memory that is on the device as a whole between `fetch` and `release`.

    Memory on the device: the table while it is there, and its optimizer state while it is updated, where the memory in
    which the weights of parts take turns is too small for that.
    """

    def __init__(self, table: nn.Parameter, weights: HostWeights) -> None:
        self._table, self.page, self._weights = table, Page([table]), weights
        self._state: Page | None = None
        self.optimizer_state: OptimizerState | None = None

    @property
    def values(self) -> Tensor | None:
        """The table in host memory; None on `meta`."""
        return None if self.page.host is None else self.page.values()[0]

    def fetch(self) -> None:
        """The table is on the device from here on."""
        _show(self.page)

    def release(self, *, keep: bool) -> None:
        """It no longer is; with `keep`, what it has become is kept."""
        _hide(self.page, keep=keep)

    def slices(self) -> Iterator[tuple[slice, Tensor]]:
        """Which rows, and the rows, one slice of the table after another: each is gone when the next is asked for."""
        count, width = self._table.shape
        row_bytes = width * self._table.element_size()
        with self._weights.borrow(row_bytes) as memory:
            if memory is None:
                with scopes.scope(WEIGHTS):
                    memory = torch.empty(max(SLICE_BYTES, row_bytes), dtype=torch.uint8, device=self._table.device)
            for some in slices(count, len(memory) // row_bytes):
                rows = memory[: (some.stop - some.start) * row_bytes].view(self._table.dtype).view(-1, width)
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
        self._state = _state_page([self._table], self.optimizer_state)

    def host_bytes(self) -> dict[str, int]:
        """What lies in host memory."""
        return {"weights": self.page.size_bytes, "optimizer state": self._state.size_bytes if self._state else 0}


def _state_page(parameters: Sequence[Tensor], state: OptimizerState | None) -> Page | None:
    found = [] if state is None else [value for parameter in parameters for value in state[parameter].values()]
    tensors = [value for value in found if isinstance(value, Tensor) and value.dim()]  # scalars stay
    return Page(tensors) if tensors else None


def _show(page: Page, memory: Tensor | None = None) -> None:
    if memory is None:
        with scopes.scope(WEIGHTS):
            memory = torch.empty(page.size_bytes, dtype=torch.uint8, device=page.device)
    if page.host is not None:
        memory[: page.size_bytes].copy_(page.host, non_blocking=True)
    page.show(memory)


def _hide(page: Page, *, keep: bool) -> None:
    if keep and page.host is not None:
        for kept, value in zip(page.values(), page.tensors, strict=True):
            kept.copy_(value.detach(), non_blocking=True)
    page.hide()


def _size(pages: Sequence[Page]) -> int:
    return sum(page.size_bytes for page in pages)
