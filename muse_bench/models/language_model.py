"""The one language model: its parts are chosen by a `ModelConfig`."""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from muse_bench import scopes
from muse_bench.config import ModelConfig
from muse_bench.layers.embedding import INITIAL_STD, HybridEmbedding, LearnedPositions, build_embedding
from muse_bench.layers.head import DenseHead, Head, LowRankHead, build_head, plain_loss
from muse_bench.layers.local_attention import LocalAttention
from muse_bench.layers.matrix_mixer import MatrixMixer
from muse_bench.layers.mixer import Attention, State
from muse_bench.layers.norm import build_norm
from muse_bench.layers.quantised import initialise
from muse_bench.layers.recompute import recomputed
from muse_bench.models.block import Block, EncoderBlock, go_through
from muse_bench.models.residence import Residence
from muse_bench.streaming import traffic
from muse_bench.streaming.memory import ANY_ROOM, HostRoom
from muse_bench.streaming.table import HostTable
from muse_kernels import host_rows
from muse_kernels.chunks import slices

MOST_CHUNKS = 64  # of a prompt: each costs launches, however short
PREFILL_CHUNKS = 4  # that a block reads before the next: weights in host memory are copied once for them


class LanguageModel(Residence):
    """Token ids (batch, seq) to logits (batch, seq, vocab_size), or straight to the loss.

    `room` is what weights in host memory, with what goes with them, may take. `say` hears how far they have come.
    Raises: HostMemoryShort.
    """

    def __init__(
        self, config: ModelConfig, room: HostRoom = ANY_ROOM, say: Callable[[str], None] = lambda _: None
    ) -> None:
        super().__init__(config, room, say)
        self.embedding = build_embedding(config)
        learned = config.positions == "learned"
        self.positions = LearnedPositions(config.max_seq_len, config.d_model) if learned else None
        self.blocks = nn.ModuleList()
        self.norm = None if config.block == "encoder" else build_norm(config)
        self.head = build_head(config)
        for part in filter(None, (self.embedding, self.positions, self.head)):
            self._initialise(part)
        self._build(self._add_block)

    def _add_block(self) -> nn.Module:
        block = self._new_block(len(self.blocks))
        self._initialise(block)
        self.blocks.append(block)
        return block

    @property
    def tp_plan(self) -> dict[str, str]:
        """How tensor parallelism may cut the model: its dense feed-forward parts, with a dense table and head."""
        plan = {"blocks.*.ffn.0": "colwise", "blocks.*.ffn.2": "rowwise"} if self.config.ffn == "dense" else {}
        if plan and self.config.embedding == self.config.head == "dense":
            plan |= {"embedding": "embedding_rowwise", "head.up": "colwise_rep"}
        return plan

    @property
    def table(self) -> Head:
        """Who turns hidden vectors into logits: the head, or the embedding that it is tied to."""
        return self.embedding if self.head is None else self.head

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

    def _rows(self, ids: Tensor) -> Tensor:
        assert isinstance(self.head, LowRankHead)
        if self._host_table is None:
            with self._whole_at_hand(self.head.up):
                return self.head.rows(ids)
        values = self._host_table.values
        traffic.to_device(ids.numel() * self._table_weight.shape[1] * self._table_weight.element_size())
        if values is None:
            return self._table_weight.new_empty(*ids.shape, self._table_weight.shape[1])
        if ids.is_cuda and not values.is_pinned():  # in a file, which no GPU reads by itself
            return host_rows(values, ids.cpu()).to(ids.device)
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

    def _logits(self, hidden: Tensor) -> Tensor:
        with scopes.scope("head"):
            if self._host_table is not None and (self._on_gradients is None or not torch.is_grad_enabled()):
                return self._sliced_logits(hidden, self._host_table)
            if self.config.checkpointing == "everything" and hidden.requires_grad:
                logits: Tensor = checkpoint(self.table.logits, hidden, use_reentrant=False, preserve_rng_state=False)
                return logits
            with self._table_at_hand():
                return self.table.logits(hidden)

    def _sliced_logits(self, hidden: Tensor, table: HostTable) -> Tensor:
        """Logits from a table in host memory, of which a slice at a time is copied to the device."""
        assert isinstance(self.head, DenseHead)
        narrow = self.head.down(hidden) if isinstance(self.head, LowRankHead) else hidden
        return table.logits(narrow, self.head.up.bias)

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
