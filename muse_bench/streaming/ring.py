"""Pages of host memory that take turns in a few slots of device memory, the next one copied while one is at work."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from muse_bench import scopes
from muse_bench.streaming import traffic
from muse_bench.streaming.lane import Lane, Moment, now, wait_for
from muse_bench.streaming.page import Page

WEIGHTS = "(weights in turn)"  # what memory that serves one part after another is attributed to


@dataclass(slots=True, eq=False)
class Slot:
    """Device memory for one page at a time: which one, when it is there, and when it may go."""

    memory: Tensor
    page: int | None = None
    ready: Moment = None
    free: Moment = None


class Ring:
    """The pages, and slots of the size of the largest.

    Memory: slots * the largest page on the device; all pages in host memory. Slots stay where they are, and are never
    fewer than they were, for a captured graph may know them: more of them are added.
    """

    def __init__(self, pages: Sequence[Page], inward: Lane, outward: Lane) -> None:
        self.pages = pages
        self._device, self._inward, self._outward = pages[0].device, inward, outward
        self._slots: list[Slot] = []
        self._memory: list[Tensor] = []  # of the slots, some at a time
        self._borrowed = False

    def begin(self, slots: int) -> None:
        """The slots, at least so many, hold nothing of use: host memory is what counts."""
        if more := max(0, slots - len(self._slots)):
            largest = max(page.size_bytes for page in self.pages)
            with scopes.scope(WEIGHTS):
                memory = torch.empty(more * largest, dtype=torch.uint8, device=self._device)
            self._memory.append(memory)
            self._slots += map(Slot, memory.split(largest))
        for slot in self._slots:
            slot.page, slot.ready, slot.free = None, None, None

    @contextlib.contextmanager
    def borrow(self, size_bytes: int) -> Iterator[Tensor | None]:
        """Memory of slots, which all forget what they hold, for another use; None if it is too small, or taken."""
        memory = max(self._memory, key=len, default=None)
        if self._borrowed or memory is None or size_bytes > len(memory):
            yield None
            return
        self._borrowed = True
        for slot in self._slots:
            wait_for(slot.ready, self._device)
            wait_for(slot.free, self._device)
        try:
            yield memory
        finally:
            self._borrowed = False
            for slot in self._slots:
                slot.page, slot.ready, slot.free = None, None, now(self._device)

    @contextlib.contextmanager
    def lend(self, index: int, following: int | None, *, keep: bool) -> Iterator[None]:
        """The page's tensors are at hand; `following` is copied meanwhile. With `keep`, what they become is kept."""
        slot = self._fetch(index)
        if following is not None and len(self._slots) > 1:
            self._fetch(following)
        wait_for(slot.ready, self._device)
        page = self.pages[index]
        page.show(slot.memory)
        try:
            yield
        finally:
            page.hide()
            slot.free = now(self._device)
        if keep:
            traffic.to_host(page.size_bytes)
        if keep and page.host is not None:
            slot.free = self._outward.copy(page.host, slot.memory[: page.size_bytes], [slot.free])

    def _fetch(self, index: int) -> Slot:
        """The slot that holds the page; else the one used least recently, with the page on its way."""
        slot = next((slot for slot in self._slots if slot.page == index), None)
        if slot is None:
            slot, page = self._slots[0], self.pages[index]
            traffic.to_device(page.size_bytes)
            if page.host is not None:
                slot.ready = self._inward.copy(slot.memory[: page.size_bytes], page.host, [slot.free])
            slot.page = index
        self._slots.remove(slot)
        self._slots.append(slot)
        return slot
