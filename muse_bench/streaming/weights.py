"""A model's weights in host memory, with the optimizer's state for them: what each part needs is lent to it in turn."""

import collections
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from muse_bench.stored import stored_together
from muse_bench.streaming.lane import Lane
from muse_bench.streaming.memory import HostMemory
from muse_bench.streaming.page import Page
from muse_bench.streaming.ring import Ring

OptimizerState = Mapping[Any, Mapping[str, Any]]
LEAST_SHARE = 0.01  # of a part's weights: an optimizer state of fewer bytes does not move


def matrices(part: nn.Module) -> list[nn.Parameter]:
    """The parameters of a part of a model that are worth moving: vectors stay on the device."""
    return [parameter for parameter in part.parameters() if parameter.dim() > 1]


class HostWeights:
    """The matrices of the parts of a model, each stored in a page; parts run in order, backwards in reverse.

    The state of an optimizer takes its host memory from `memory`, if any.

    A part that is updated in backward keeps what its weights and their optimizer state become. Copies of the next
    part run beside the computation of this one.
    Memory on the device: the weights of the largest part once for each slot, and in training as many of the largest
    state; all state, where it is a hundredth of the weights or less.
    """

    def __init__(
        self, parts: Sequence[Sequence[nn.Parameter]], pages: Sequence[Page], memory: HostMemory | None = None
    ) -> None:
        device = pages[0].device
        self._parts, self._memory = parts, memory
        self._inward, self._outward = Lane(device), Lane(device)
        self._weights = Ring(pages, self._inward, self._outward)
        self._places = {parameter: (page, index) for page in self.pages for index, parameter in enumerate(page.tensors)}
        self._state: Ring | None = None
        self._state_pages: dict[int, Page] = {}
        self._without_state: set[int] = set()
        self._state_places: dict[int, int] = {}  # of the parts with state, among each other
        self.optimizer_state: OptimizerState | None = None  # whose tensors move to host memory as they appear

    def __len__(self) -> int:
        return len(self.pages)

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
        state = self._state_at_hand(index) if update else contextlib.nullcontext()
        with self._weights.lend(index, following, keep=update), state:
            yield
        if update and following is None:
            self._outward.finish()

    def keep_gradient(self, parameter: nn.Parameter) -> None:
        """A parameter's gradient moves to host memory; that of one which is stored in another form stays."""
        if parameter in self._places:
            page, index = self._places[parameter]
            page.keep_gradient(index)

    def borrow(self, size_bytes: int) -> contextlib.AbstractContextManager[Tensor | None]:
        """The device memory in which weights take turns, for another use between two parts; None if it is too small."""
        return self._weights.borrow(size_bytes)

    @property
    def pages(self) -> Sequence[Page]:
        """Where the weights lie."""
        return self._weights.pages

    def host_bytes(self) -> dict[str, int]:
        """What lies in host memory."""
        kept = collections.Counter({"optimizer state": sum(page.size_bytes for page in self._state_pages.values())})
        for page in self.pages:
            kept.update(page.host_bytes)
        return dict(kept)

    @contextlib.contextmanager
    def _state_at_hand(self, index: int) -> Iterator[None]:
        if self._state is None:
            yield
            self._adopt(index)
            return
        if index in self._without_state:
            yield
            return
        place = self._state_places[index]
        with self._state.lend(place, place - 1 if place else None, keep=True):  # updates come in reverse
            yield

    def _adopt(self, index: int) -> None:
        """Moves the part's new optimizer state to host memory; once all have had one, it goes round as weights do."""
        page = state_page(self._parts[index], self.optimizer_state, self._memory)
        if page is None:
            self._without_state.add(index)
        else:
            self._state_pages[index] = page
        if self._state_pages and len(self._state_pages) + len(self._without_state) == len(self.pages):
            parts = sorted(self._state_pages)
            self._state_places = {part: place for place, part in enumerate(parts)}
            self._state = Ring([self._state_pages[part] for part in parts], self._inward, self._outward)


def state_page(
    parameters: Sequence[Tensor], state: OptimizerState | None, memory: HostMemory | None = None
) -> Page | None:
    """What the optimizer keeps of these parameters; None where that is so little that it stays on the device.

    A copy of it would wait behind those of weights, and the update for it.
    """
    found = [] if state is None else [value for parameter in parameters for value in state[parameter].values()]
    tensors = [value for value in found if isinstance(value, Tensor) and value.dim()]  # scalars stay
    little = LEAST_SHARE * sum(tensor.nbytes for tensor in stored_together(parameters))
    return Page(tensors, memory) if sum(tensor.nbytes for tensor in tensors) > little else None
