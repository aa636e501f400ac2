"""The blocks of a language model: a mixer and a feed-forward part on a residual stream, and PyTorch's own encoder."""

import contextlib
from collections.abc import Callable

from torch import Tensor, nn

from muse_bench.config import ModelConfig
from muse_bench.layers.ffn import EXPANSION, build_ffn
from muse_bench.layers.mixer import SemiseparableMixer, State, build_mixer
from muse_bench.layers.norm import build_norm
from muse_kernels.chunks import slices
from muse_kernels.precision import accumulation_dtype

LendHalf = Callable[[int], contextlib.AbstractContextManager[None]]


class Block(nn.Module):
    """x + mixer(norm x), then x + ffn(norm x); with `shared_norm` one norm serves both."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.gate_l1 = config.gate_l1
        self.mixer_norm = build_norm(config)
        self.mixer = build_mixer(config, index)
        self.ffn_norm = None if config.shared_norm else build_norm(config)
        self.ffn = build_ffn(config)
        # Has the weights of the mixer (0) or the feed-forward part (1) at hand.
        self.lend: LendHalf = lambda half: contextlib.nullcontext()

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, Tensor | None]:
        """The next hidden state, and the L1 penalty of the gates when there is one."""
        with self.lend(0):
            mixed, penalty = self._mix(self.mixer_norm(x), state)
        x = x + mixed
        norm = self.mixer_norm if self.ffn_norm is None else self.ffn_norm
        with self.lend(1):
            return x + self.ffn(norm(x)), penalty

    def sublayers(self, state: State | None = None) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        """The two halves, each (batch, seq, d_model) to what it adds to the residual stream."""
        norm = self.mixer_norm if self.ffn_norm is None else self.ffn_norm
        return lambda x: self.mixer(self.mixer_norm(x), state), lambda x: self.ffn(norm(x))

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


def go_through(block: Block, x: Tensor, chunk: int, state: State | None) -> None:
    """Adds to x (batch, seq, d_model) what each half of the block makes of it, a chunk of the sequence at a time."""
    batch, seq = x.shape[:2]
    halves = list(block.sublayers(block.mixer.new_state(batch, seq, x.device) if state is None else state))
    for place in range(len(halves)):
        part = halves.pop(0)  # with it goes the mixer's state, which nobody goes on from
        with block.lend(place):
            for some in slices(x.shape[1], chunk):
                x[:, some] += part(x[:, some])
