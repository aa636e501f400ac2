"""The one language model: its parts are chosen by a `ModelConfig`."""

import collections
import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from muse_bench import scopes
from muse_bench.config import ModelConfig
from muse_bench.errors import HostMemoryShort
from muse_bench.layers.embedding import INITIAL_STD, HybridEmbedding, LearnedPositions, build_embedding
from muse_bench.layers.ffn import LowRankFFN
from muse_bench.layers.head import DenseHead, Head, LowRankHead, build_head, plain_loss
from muse_bench.layers.local_attention import LocalAttention
from muse_bench.layers.matrix_mixer import MatrixMixer
from muse_bench.layers.mixer import Attention, State
from muse_bench.layers.norm import build_norm
from muse_bench.layers.quantised import initialise
from muse_bench.layers.recompute import HostStore, recomputed
from muse_bench.models.block import Block, EncoderBlock, go_through
from muse_bench.models.parameters import count_parameters
from muse_bench.stored import Int8Parameter, stored_together
from muse_bench.streaming import traffic
from muse_bench.streaming.accelerated import AcceleratedWeights, sizes_of
from muse_bench.streaming.countdown import Countdown
from muse_bench.streaming.memory import HostMemory
from muse_bench.streaming.page import Page, memory_for
from muse_bench.streaming.table import HostTable
from muse_bench.streaming.weights import HostWeights, OptimizerState, matrices
from muse_bench.units import format_count
from muse_kernels import host_rows
from muse_kernels.chunks import slices

MOST_CHUNKS = 64  # of a prompt: each costs launches, however short
PREFILL_CHUNKS = 4  # that a block reads before the next: weights in host memory are copied once for them
READ_WEIGHTS_INSIDE = (LowRankFFN, EncoderBlock)  # and do not call the modules that have these


Update = Callable[[Sequence[nn.Parameter]], None]  # of those of these parameters that have a gradient


class LanguageModel(nn.Module):
    """Token ids (batch, seq) to logits (batch, seq, vocab_size), or straight to the loss.

    `host_memory_bytes` is what weights in host memory, with what goes with them, may take; else what the kernel has.
    `say` hears how far the filling of host memory has come.
    Raises: HostMemoryShort.
    """

    def __init__(
        self,
        config: ModelConfig,
        host_memory_bytes: int | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__()
        self.config, self._host_memory_bytes, self._say = config, host_memory_bytes, say
        self.embedding = build_embedding(config)
        learned = config.positions == "learned"
        self.positions = LearnedPositions(config.max_seq_len, config.d_model) if learned else None
        self.blocks = nn.ModuleList()
        self.norm = None if config.block == "encoder" else build_norm(config)
        self.head = build_head(config)
        self._on_gradients: Update | None = None
        self._of_blocks: list[list[nn.Parameter]] = []  # their parameters, where backward updates them
        self._store = HostStore() if config.offload else None
        self._weights: HostWeights | None = None
        self._host_table: HostTable | None = None
        self._accelerated: AcceleratedWeights | None = None
        for part in filter(None, (self.embedding, self.positions, self.head)):
            self._initialise(part)
        if config.weights == "host":
            self._build_in_turns()
        elif config.weights == "accelerate":
            self._build_accelerated()
        else:
            for _ in range(config.n_layers):
                self._add_block()

    def _build_in_turns(self) -> None:
        """Weights of each block move to host memory, where all have a place, before the next block is built."""
        with torch.device("meta"):
            memory = self._memory_for(Block(self.config, index) for index in range(self.config.n_layers))
        pages: list[Page] = []
        countdown = Countdown("drawing weights into host memory", self._say)
        for _ in range(self.config.n_layers):
            pages += _pages_of(self._add_block(), memory)
            done = sum(page.size_bytes for page in pages)
            countdown(done, done * self.config.n_layers // len(self.blocks))
        self._watch_gradients()
        self._take_turns(pages, memory)

    def _build_accelerated(self) -> None:
        """Weights of each part move to host memory before the next is built; then accelerate has them all."""
        parts = list(filter(None, (self.embedding, self.positions, self.norm, self.head)))
        with torch.device("meta"):
            sizes = sizes_of([*parts, *(self._new_block(index) for index in range(self.config.n_layers))])
        device = next(self.embedding.parameters()).device
        weights = AcceleratedWeights(sizes, device, self._host_memory_bytes)
        for part in itertools.chain(parts, (self._add_block() for _ in range(self.config.n_layers))):
            weights.take_over(part)
        weights.offload(self, READ_WEIGHTS_INSIDE)
        self._accelerated = weights

    def _new_block(self, index: int) -> nn.Module:
        return (EncoderBlock if self.config.block == "encoder" else Block)(self.config, index)

    def _add_block(self) -> nn.Module:
        block = self._new_block(len(self.blocks))
        self._initialise(block)
        self.blocks.append(block)
        return block

    @property
    def table(self) -> Head:
        """Who turns hidden vectors into logits: the head, or the embedding that it is tied to."""
        return self.embedding if self.head is None else self.head

    def host_bytes(self) -> dict[str, int]:
        """What the model keeps in pinned host memory, by part, in bytes; nothing before the first step asks for it."""
        kept = collections.Counter({"checkpoints": 0 if self._store is None else self._store.size_bytes})
        for weights in (self._weights, self._host_table, self._accelerated):
            kept.update({} if weights is None else weights.host_bytes())
        return {part: size for part, size in kept.items() if size}

    def forward(self, ids: Tensor, *, last_only: bool = False) -> Tensor:
        """Logits of every position, or with last_only of the last one: (batch, 1, vocab_size)."""
        if last_only and self._prefill_chunk is not None and not torch.is_grad_enabled():
            return self.read_prompt(ids)
        hidden, _ = self.hidden(ids)
        return self._logits(hidden[:, -1:] if last_only else hidden)

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of the next tokens, plus, in training, the penalty of the gates when there is one."""
        hidden, penalty = self.hidden(ids)
        if self.config.loss == "fused":
            with scopes.scope("loss"), self._table_at_hand():
                loss = self.table.loss(hidden, targets)
        else:
            logits = self._logits(hidden)
            with scopes.scope("loss"):
                loss = plain_loss(logits, targets)
        return loss if penalty is None or not self.training else loss + penalty

    def hidden(self, ids: Tensor, states: list[State] | None = None, start: int = 0) -> tuple[Tensor, Tensor | None]:
        """Hidden vectors (batch, seq, d_model) after the last norm, and the penalty of all gates together.

        `states` and `start` continue sequences of which `start` tokens have gone through already.
        """
        x = self._embed(ids, start)
        self._begin()
        total: Tensor | None = None
        for index, block in enumerate(self.blocks):
            x, penalty = self._run(index, block, x, None if states is None else states[index])
            if penalty is not None:
                total = penalty if total is None else total + penalty
        return (x if self.norm is None else self.norm(x)), total

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

    def _embed(self, ids: Tensor, start: int) -> Tensor:
        """Vectors of the ids, which begin at this position."""
        if isinstance(self.embedding, HybridEmbedding):
            with scopes.scope("embedding"):
                rows = self._rows(ids)
            x: Tensor = self.embedding(ids, rows)
        else:
            x = self.embedding(ids)
        if self.positions is None:
            return x
        end = start + ids.shape[1]
        if end > self.config.max_seq_len:
            raise IndexError(f"{end} tokens, but the model has {self.config.max_seq_len} positions")
        with scopes.scope("positions"):
            added: Tensor = self.positions(start, end)
            return x + added

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

    def _rows(self, ids: Tensor) -> Tensor:
        assert isinstance(self.head, LowRankHead)
        if self._host_table is None:
            with self._whole_at_hand(self.head.up):
                return self.head.rows(ids)
        values = self._host_table.values
        traffic.to_device(ids.numel() * self._table_weight.shape[1] * self._table_weight.element_size())
        if values is None:
            return self._table_weight.new_empty(*ids.shape, self._table_weight.shape[1])
        return host_rows(values, ids)

    def decode_step(self, ids: Tensor, states: list[State], start: int) -> Tensor:
        """Logits (batch, 1, vocab_size) after the new ids (batch, new), updating the states."""
        hidden, _ = self.hidden(ids, states, start)
        return self._logits(hidden[:, -1:])

    def read_prompt(self, ids: Tensor, states: list[State] | None = None) -> Tensor:
        """Logits (batch, 1, vocab_size) after a prompt, filling empty states if they are to be gone on from.

        Where the config has chunks, each half of a block goes through some of them before the next: activations are
        those of a chunk, beside the hidden states of those some. A long prompt has longer ones.
        """
        chunk = max(self._prefill_chunk or ids.shape[1], -(-ids.shape[1] // MOST_CHUNKS))
        stretches = list(slices(ids.shape[1], PREFILL_CHUNKS * chunk))
        if len(stretches) > 1 and states is None:
            states = self.new_states(*ids.shape)
        for stretch in stretches:
            some = [
                slice(part.start + stretch.start, part.stop + stretch.start)
                for part in slices(stretch.stop - stretch.start, chunk)
            ]
            x = torch.cat([self._embed(ids[:, part], part.start) for part in some], dim=1)
            self._begin()
            for index, block in enumerate(self.blocks):
                assert isinstance(block, Block)
                go_through(block, x, chunk, None if states is None else states[index])
            last = x[:, -1:].clone()
            del x
        return self._logits(last if self.norm is None else self.norm(last))

    def new_states(self, batch: int, max_seq_len: int) -> list[State]:
        """One empty decoding state a block."""
        device = None if self._accelerated is None else self._accelerated.device
        return [block.mixer.new_state(batch, max_seq_len, device) for block in self.blocks]  # type: ignore[union-attr, operator]

    @property
    def _prefill_chunk(self) -> int | None:
        """That of the config, but for accelerate, which copies a module's weights again for each chunk."""
        return None if self._accelerated is not None else self.config.prefill_chunk

    def _whole_at_hand(self, module: nn.Module) -> contextlib.AbstractContextManager[None]:
        """The weights that accelerate keeps of a module are on the device, outside its forward."""
        return contextlib.nullcontext() if self._accelerated is None else self._accelerated.at_hand(module)

    def _logits(self, hidden: Tensor) -> Tensor:
        with scopes.scope("head"):
            if self._host_table is not None and (self._on_gradients is None or not torch.is_grad_enabled()):
                return self._sliced_logits(hidden, self._host_table)
            if self.config.checkpointing == "everything" and hidden.requires_grad:
                logits: Tensor = checkpoint(self.table.logits, hidden, use_reentrant=False, preserve_rng_state=False)
                return logits
            with self._table_at_hand():
                return self.table.logits(hidden)

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

    def _sliced_logits(self, hidden: Tensor, table: HostTable) -> Tensor:
        """Logits from a table in host memory, of which a slice at a time is copied to the device."""
        assert isinstance(self.head, DenseHead)
        narrow = self.head.down(hidden) if isinstance(self.head, LowRankHead) else hidden
        return table.logits(narrow, self.head.up.bias)

    def _memory_for(self, blocks: Iterable[nn.Module]) -> HostMemory | None:
        """Host memory with a place for the weights of these blocks and the table."""
        halves = (stored_together(half) for block in blocks for half in _halves(block))
        pages = itertools.chain(halves, [stored_together([self._table_weight])])
        countdown = Countdown("making host memory ready", self._say)
        try:
            return memory_for(pages, self._table_weight.device, self._host_memory_bytes, countdown)
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

    def _run(self, index: int, block: nn.Module, x: Tensor, state: State | None) -> tuple[Tensor, Tensor | None]:
        streams = self._weights is not None and torch.is_grad_enabled() and state is None
        if self.config.checkpointing == "none" or not (self.training or streams):
            result: tuple[Tensor, Tensor | None] = block(x, state)
            return result
        if self.config.checkpointing == "sublayers":
            return self._run_sublayers(index, block, x), None
        stochastic = self.config.dropout > 0 or self.config.gate == "gumbel"
        return checkpoint(block, x, use_reentrant=False, preserve_rng_state=stochastic)  # type: ignore[no-any-return]

    def _run_sublayers(self, index: int, block: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(block, Block)
        update = self._on_gradients
        done = None if update is None else functools.partial(update, self._of_blocks[index])
        halves = zip(block.sublayers(), (self.config.checkpoint_parts, 1), strict=True)
        for place, (part, parts) in enumerate(halves, 2 * index):
            rows = -(-len(x) // parts)
            lend = functools.partial(self._lend, place)
            x = recomputed(x, part, rows, self._store, place, lend, done)
        return x

    def _initialise(self, part: nn.Module) -> None:
        """Normal weights of a small spread, zero biases; what writes to the residual stream is scaled by depth."""
        if isinstance(part, EncoderBlock) or self.config.block == "encoder":
            return
        for module in part.modules():
            if isinstance(module, nn.Linear):
                initialise(module, INITIAL_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=INITIAL_STD)
        if not isinstance(part, Block) or not isinstance(part.ffn, nn.Sequential):
            return
        if isinstance(part.mixer, Attention | LocalAttention | MatrixMixer):
            residual_std = INITIAL_STD / math.sqrt(2 * self.config.n_layers)
            for last in (part.mixer.out, part.ffn[-1]):
                assert isinstance(last, nn.Linear)
                initialise(last, residual_std)


def _halves(block: nn.Module) -> list[list[nn.Parameter]]:
    """The matrices of each half of a block."""
    assert isinstance(block, Block)
    return [matrices(part) for part in (block.mixer, block.ffn)]


def _learns(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad


def _pages_of(block: nn.Module, memory: HostMemory | None) -> list[Page]:
    """The matrices of each half of a block, in host memory from here on."""
    return [Page(stored_together(half), memory) for half in _halves(block)]
