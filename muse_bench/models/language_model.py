"""The one language model: its parts are chosen by a `ModelConfig`."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from muse_bench import scopes
from muse_bench.config import ModelConfig
from muse_bench.layers.embedding import INITIAL_STD, HybridEmbedding, build_embedding
from muse_bench.layers.ffn import EXPANSION, build_ffn
from muse_bench.layers.head import Head, LowRankHead, build_head, plain_loss
from muse_bench.layers.local_attention import LocalAttention
from muse_bench.layers.matrix_mixer import MatrixMixer
from muse_bench.layers.mixer import Attention, SemiseparableMixer, State, build_mixer
from muse_bench.layers.norm import build_norm
from muse_bench.layers.recompute import HostStore, recomputed
from muse_kernels.precision import accumulation_dtype


class Block(nn.Module):
    """x + mixer(norm x), then x + ffn(norm x); with `shared_norm` one norm serves both."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.gate_l1 = config.gate_l1
        self.mixer_norm = build_norm(config)
        self.mixer = build_mixer(config, index)
        self.ffn_norm = None if config.shared_norm else build_norm(config)
        self.ffn = build_ffn(config)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, Tensor | None]:
        """The next hidden state, and the L1 penalty of the gates when there is one."""
        mixed, penalty = self._mix(self.mixer_norm(x), state)
        x = x + mixed
        norm = self.mixer_norm if self.ffn_norm is None else self.ffn_norm
        return x + self.ffn(norm(x)), penalty

    def sublayers(self) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        """The two halves, each (batch, seq, d_model) to what it adds to the residual stream."""
        norm = self.mixer_norm if self.ffn_norm is None else self.ffn_norm
        return lambda x: self.mixer(self.mixer_norm(x)), lambda x: self.ffn(norm(x))

    def _mix(self, x: Tensor, state: State | None) -> tuple[Tensor, Tensor | None]:
        if isinstance(self.mixer, SemiseparableMixer) and self.gate_l1:
            mixed, gates = self.mixer.mix(x, state)  # type: ignore[arg-type]
            return mixed, self.gate_l1 * gates.to(accumulation_dtype(gates.dtype)).mean()
        return self.mixer(x, state), None


class EncoderBlock(nn.TransformerEncoderLayer):
    """PyTorch's own encoder layer as the reports used it: post-norm, ReLU, no mask."""

    def __init__(self, config: ModelConfig, _: int) -> None:
        super().__init__(config.d_model, config.n_heads, EXPANSION * config.d_model, config.dropout, batch_first=True)

    def forward(self, x: Tensor, state: None = None) -> tuple[Tensor, None]:  # type: ignore[override]
        return super().forward(x), None


class LanguageModel(nn.Module):
    """Token ids (batch, seq) to logits (batch, seq, vocab_size), or straight to the loss."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = build_embedding(config)
        learned = config.positions == "learned"
        self.positions = nn.Embedding(config.max_seq_len, config.d_model) if learned else None
        kind = EncoderBlock if config.block == "encoder" else Block
        self.blocks = nn.ModuleList(kind(config, index) for index in range(config.n_layers))
        self.norm = None if config.block == "encoder" else build_norm(config)
        self.head = build_head(config)
        # Called in backward whenever a part that is computed again has its gradients.
        self.on_gradients: Callable[[], None] | None = None
        self._store = HostStore() if config.offload else None
        if config.block != "encoder":
            self._initialise()

    @property
    def table(self) -> Head:
        """Who turns hidden vectors into logits: the head, or the embedding that it is tied to."""
        return self.embedding if self.head is None else self.head

    def forward(self, ids: Tensor, *, last_only: bool = False) -> Tensor:
        """Logits of every position, or with last_only of the last one: (batch, 1, vocab_size)."""
        chunk = self.config.prefill_chunk
        if last_only and chunk is not None and ids.shape[1] > chunk and not torch.is_grad_enabled():
            return self._prefill(ids, chunk)
        hidden, _ = self.hidden(ids)
        return self._logits(hidden[:, -1:] if last_only else hidden)

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of the next tokens, plus, in training, the penalty of the gates when there is one."""
        hidden, penalty = self.hidden(ids)
        if self.config.loss == "fused":
            with scopes.scope("loss"):
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
        x: Tensor = self._embed(ids)
        if self.positions is not None:
            end = start + ids.shape[1]
            if end > self.config.max_seq_len:
                raise IndexError(f"{end} tokens, but the model has {self.config.max_seq_len} positions")
            with scopes.scope("positions"):
                x = x + self.positions.weight[start:end]
        total: Tensor | None = None
        for index, block in enumerate(self.blocks):
            x, penalty = self._run(index, block, x, None if states is None else states[index])
            if penalty is not None:
                total = penalty if total is None else total + penalty
        return (x if self.norm is None else self.norm(x)), total

    def _embed(self, ids: Tensor) -> Tensor:
        if isinstance(self.embedding, HybridEmbedding):
            assert isinstance(self.head, LowRankHead)
            with scopes.scope("embedding"):
                rows = self.head.rows(ids)
            embedded: Tensor = self.embedding(ids, rows)
            return embedded
        return self.embedding(ids)  # type: ignore[no-any-return]

    def decode_step(self, ids: Tensor, states: list[State], start: int) -> Tensor:
        """Logits (batch, 1, vocab_size) after the new ids (batch, new), updating the states."""
        hidden, _ = self.hidden(ids, states, start)
        return self._logits(hidden[:, -1:])

    def _prefill(self, ids: Tensor, chunk: int) -> Tensor:
        """The last position's logits, a chunk of the prompt at a time: activations are those of a chunk."""
        states = self.new_states(*ids.shape)
        for start in range(0, ids.shape[1], chunk):
            hidden = self.hidden(ids[:, start : start + chunk], states, start)[0][:, -1:].clone()
        return self._logits(hidden)

    def new_states(self, batch: int, max_seq_len: int) -> list[State]:
        """One empty decoding state a block."""
        return [block.mixer.new_state(batch, max_seq_len) for block in self.blocks]  # type: ignore[union-attr, operator]

    def _logits(self, hidden: Tensor) -> Tensor:
        with scopes.scope("head"):
            if self.config.checkpointing == "everything" and hidden.requires_grad:
                logits: Tensor = checkpoint(self.table.logits, hidden, use_reentrant=False, preserve_rng_state=False)
                return logits
            return self.table.logits(hidden)

    def _run(self, index: int, block: nn.Module, x: Tensor, state: State | None) -> tuple[Tensor, Tensor | None]:
        if self.config.checkpointing == "none" or not self.training:
            result: tuple[Tensor, Tensor | None] = block(x, state)
            return result
        if self.config.checkpointing == "sublayers":
            return self._run_sublayers(index, block, x), None
        stochastic = self.config.dropout > 0 or self.config.gate == "gumbel"
        return checkpoint(block, x, use_reentrant=False, preserve_rng_state=stochastic)  # type: ignore[no-any-return]

    def _run_sublayers(self, index: int, block: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(block, Block)
        rows = -(-len(x) // self.config.checkpoint_parts)
        for place, part in enumerate(block.sublayers(), 2 * index):
            x = recomputed(x, part, rows, self._store, place, self.on_gradients)
        return x

    def _initialise(self) -> None:
        """Normal weights of a small spread, zero biases; what writes to the residual stream is scaled by depth."""
        residual_std = INITIAL_STD / math.sqrt(2 * self.config.n_layers)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=INITIAL_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=INITIAL_STD)
        for block in self.blocks:
            assert isinstance(block, Block)
            if isinstance(block.mixer, Attention | LocalAttention | MatrixMixer) and isinstance(
                block.ffn, nn.Sequential
            ):
                for last in (block.mixer.out.weight, block.ffn[-1].get_parameter("weight")):
                    nn.init.normal_(last, std=residual_std)
