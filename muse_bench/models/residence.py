"""Where a model's weights are: on the device, in host memory and lent in turn, or with a peer's engine."""

import collections
import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from muse_bench.config import ModelConfig
from muse_bench.errors import HostMemoryShort
from muse_bench.layers.embedding import Embedding
from muse_bench.layers.ffn import LowRankFFN
from muse_bench.layers.head import DenseHead, Head
from muse_bench.layers.recompute import HostStore
from muse_bench.models.block import Block, EncoderBlock
from muse_bench.models.parameters import count_parameters
from muse_bench.stored import Int8Parameter, stored_together
from muse_bench.streaming.accelerated import AcceleratedWeights, sizes_of
from muse_bench.streaming.countdown import Countdown
from muse_bench.streaming.memory import HostMemory, HostRoom
from muse_bench.streaming.page import Page, memory_for
from muse_bench.streaming.table import HostTable
from muse_bench.streaming.weights import HostWeights, OptimizerState, matrices
from muse_bench.units import format_count

READ_WEIGHTS_INSIDE = (LowRankFFN, EncoderBlock)  # and do not call the modules that have these
Update = Callable[[Sequence[nn.Parameter]], None]  # of those of these parameters that have a gradient


class Residence(nn.Module):
    """The side of a language model that knows where its weights are, and what updates them in backward."""

    config: ModelConfig
    embedding: Embedding
    positions: nn.Module | None
    blocks: nn.ModuleList
    norm: nn.Module | None
    head: Head | None

    def __init__(self, config: ModelConfig, room: HostRoom, say: Callable[[str], None]) -> None:
        super().__init__()
        self.config, self._room, self._say = config, room, say
        self._on_gradients: Update | None = None
        self._of_blocks: list[list[nn.Parameter]] = []  # their parameters, where backward updates them
        self._store = HostStore() if config.offload else None
        self._weights: HostWeights | None = None
        self._host_table: HostTable | None = None
        self._accelerated: AcceleratedWeights | None = None

    def _build(self, add_block: Callable[[], nn.Module]) -> None:
        """Blocks, each added by the call, and their weights where they are to be."""
        if self.config.weights == "host":
            self._build_in_turns(add_block)
        elif self.config.weights == "accelerate":
            self._build_accelerated(add_block)
        else:
            for _ in range(self.config.n_layers):
                add_block()

    def _new_block(self, index: int) -> nn.Module:
        return (EncoderBlock if self.config.block == "encoder" else Block)(self.config, index)

    def _build_in_turns(self, add_block: Callable[[], nn.Module]) -> None:
        """Weights of each block move to host memory, where all have a place, before the next block is built."""
        with torch.device("meta"):
            memory = self._memory_for(Block(self.config, index) for index in range(self.config.n_layers))
        pages: list[Page] = []
        countdown = Countdown("drawing weights into host memory", self._say)
        for _ in range(self.config.n_layers):
            pages += _pages_of(add_block(), memory)
            done = sum(page.size_bytes for page in pages)
            countdown(done, done * self.config.n_layers // len(self.blocks))
        self._watch_gradients()
        self._take_turns(pages, memory)

    def _build_accelerated(self, add_block: Callable[[], nn.Module]) -> None:
        """Weights of each part move to host memory before the next is built; then accelerate has them all."""
        parts: list[nn.Module] = list(filter(None, (self.embedding, self.positions, self.norm, self.head)))
        with torch.device("meta"):
            sizes = sizes_of([*parts, *(self._new_block(index) for index in range(self.config.n_layers))])
        device = next(self.embedding.parameters()).device
        weights = AcceleratedWeights(sizes, device, self._room)
        for part in itertools.chain(parts, (add_block() for _ in range(self.config.n_layers))):
            weights.take_over(part)
        weights.offload(self, READ_WEIGHTS_INSIDE)
        self._accelerated = weights

    def host_bytes(self) -> dict[str, int]:
        """What the model keeps in pinned host memory, by part, in bytes; nothing before the first step asks for it."""
        kept = collections.Counter({"checkpoints": 0 if self._store is None else self._store.size_bytes})
        for weights in (self._weights, self._host_table, self._accelerated):
            kept.update({} if weights is None else weights.host_bytes())
        return {part: size for part, size in kept.items() if size}

    def update_in_backward(self, update: Update, state: OptimizerState) -> set[nn.Parameter]:
        """Calls `update` in backward whenever a part that is computed again has its gradients; returns whose.

        It is told the parameters of the block, which alone can have some then. A matrix in int8 is updated as soon as
        its own gradient is there, where its part is computed in one go.
        `state` is the optimizer's: for weights in host memory it moves there too.
        """
        if self.config.checkpointing != "sublayers":
            return set()
        self._on_gradients = update
        self._of_blocks = [list(block.parameters()) for block in self.blocks]
        for block, parameters in zip(self.blocks, self._of_blocks, strict=True):
            for parameter in self._single_gradients(block):
                parameter.register_post_accumulate_grad_hook(lambda _, parameters=parameters: update(parameters))
        updated = set(self.blocks.parameters())
        if self._weights is not None and self._host_table is not None:
            self._weights.optimizer_state = self._host_table.optimizer_state = state
            updated.add(self._table_weight)
        return updated

    def _single_gradients(self, block: nn.Module) -> Iterator[nn.Parameter]:
        """The matrices in int8 whose gradient comes whole in each backward pass."""
        for half in (block.mixer, block.ffn) if self.config.checkpoint_parts == 1 else (block.ffn,):
            assert isinstance(half, nn.Module)
            yield from (parameter for parameter in half.parameters() if isinstance(parameter, Int8Parameter))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        with self.all_on_device():
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As nn.Module has it; weights in host memory take part."""
        with self.all_on_device():
            return super().load_state_dict(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As nn.Module has it; what lies in host memory is given there."""
        state = super().state_dict(*args, **kwargs)
        for page, names in self.named_pages():
            values = page.tensors if page.host is None else page.values()
            state.update({kwargs.get("prefix", "") + name: value for name, value in zip(names, values, strict=True)})
        return state

    def named_pages(self) -> list[tuple[Page, list[str]]]:
        """Where weights in host memory lie, with the names of the tensors of each page."""
        names = {tensor: name for name, tensor in (*self.named_parameters(), *self.named_buffers())}
        return [(page, [names[tensor] for tensor in page.tensors]) for page in self._pages()]

    def gradients(self) -> dict[str, Tensor | None]:
        """By name, each where it is: beside its parameter, or in host memory as the parameter is."""
        found: dict[nn.Parameter | Tensor, Tensor | None] = {
            parameter: parameter.grad for parameter in self.parameters()
        }
        for page in self._pages():
            found.update({tensor: page.gradient(index) for index, tensor in enumerate(page.tensors)})
        return {name: found[parameter] for name, parameter in self.named_parameters()}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As nn.Module has it; gradients in host memory are dropped."""
        super().zero_grad(set_to_none)
        for page in self._pages():
            page.drop_gradients()

    @contextlib.contextmanager
    def all_on_device(self) -> Iterator[None]:
        """Weights in host memory are on the device as a whole, and move back."""
        self._restore()
        yield
        if self._weights is not None:
            self._weights = self._host_table = None  # their memory goes before there is more
            memory = self._memory_for(self.blocks)
            self._take_turns([page for block in self.blocks for page in _pages_of(block, memory)], memory)

    def _restore(self) -> None:
        for page in self._pages():
            page.restore()

    def _pages(self) -> list[Page]:
        if self._weights is None or self._host_table is None:
            return []
        return [*self._weights.pages, self._host_table.page]

    def _begin(self) -> None:
        """A pass begins: weights in host memory take turns on the device from here on."""
        if self._weights is not None:
            training = self.training or torch.is_grad_enabled()
            self._weights.begin(self.config.training_slots if training else self.config.inference_slots)

    def _whole_at_hand(self, module: nn.Module) -> contextlib.AbstractContextManager[None]:
        """The weights that accelerate keeps of a module are on the device, outside its forward."""
        return contextlib.nullcontext() if self._accelerated is None else self._accelerated.at_hand(module)

    @property
    def _table_weight(self) -> nn.Parameter:
        assert isinstance(self.head, DenseHead)
        return self.head.up.get_parameter("weight")

    @contextlib.contextmanager
    def _table_at_hand(self) -> Iterator[None]:
        """The head's table is on the device: until its gradient is there, if it is to have one."""
        table = self._host_table
        if table is not None:
            table.fetch()
        with contextlib.nullcontext() if self.head is not None else self._whole_at_hand(self.embedding):
            yield
        if table is not None and not torch.is_grad_enabled():
            table.release(keep=False)

    def _table_has_gradient(self, _: Tensor) -> None:
        table, update = self._host_table, self._on_gradients
        assert table is not None
        if update is None:
            table.page.keep_gradient(0)
        else:
            with table.updating():
                update([self._table_weight])
        table.release(keep=update is not None)

    def _memory_for(self, blocks: Iterable[nn.Module]) -> HostMemory | None:
        """Host memory with a place for the weights of these blocks and the table."""
        halves = (stored_together(half) for block in blocks for half in _halves(block))
        pages = itertools.chain(halves, [stored_together([self._table_weight])])
        countdown = Countdown("making host memory ready", self._say)
        try:
            return memory_for(pages, self._table_weight.device, self._room, countdown)
        except HostMemoryShort as error:
            if not error.fitting_bytes:
                raise
            fitting = count_parameters(self.config) * error.fitting_bytes // error.needed_bytes
            raise error.with_hint(f"about --params {format_count(fitting)} would fit") from None

    def _take_turns(self, pages: Sequence[Page], memory: HostMemory | None) -> None:
        parts = [half for block in self.blocks for half in _halves(block)]
        self._weights = HostWeights(parts, pages, memory)
        self._host_table = HostTable(self._table_weight, self._weights, memory)
        self._store = HostStore(memory) if self.config.offload else None

    def _watch_gradients(self) -> None:
        for index, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            block.lend = functools.partial(self._lend_half, index)
            for parameter in filter(_learns, itertools.chain.from_iterable(_halves(block))):
                parameter.register_post_accumulate_grad_hook(self._part_has_gradient)
        self._table_weight.register_post_accumulate_grad_hook(self._table_has_gradient)

    def _part_has_gradient(self, parameter: nn.Parameter) -> None:
        """Without an update in backward, it is kept in host memory; with one, until the part is done."""
        if self._on_gradients is None and self._weights is not None:
            self._weights.keep_gradient(parameter)

    def _lend_half(self, block: int, half: int) -> contextlib.AbstractContextManager[None]:
        return self._lend(2 * block + half, backward=False)

    def _lend(self, place: int, backward: bool) -> contextlib.AbstractContextManager[None]:
        """The weights of a half block are at hand, and those of the next on their way."""
        if self._weights is None:
            return contextlib.nullcontext()
        following = place - 1 if backward else place + 1
        update = backward and self._on_gradients is not None
        return self._weights.at_hand(place, following if 0 <= following < len(self._weights) else None, update=update)


def _halves(block: nn.Module) -> list[list[nn.Parameter]]:
    """The matrices of each half of a block."""
    assert isinstance(block, Block)
    return [matrices(part) for part in (block.mixer, block.ffn)]


def _learns(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad


def _pages_of(block: nn.Module, memory: HostMemory | None) -> list[Page]:
    """The matrices of each half of a block, in host memory from here on."""
    return [Page(stored_together(half), memory) for half in _halves(block)]
