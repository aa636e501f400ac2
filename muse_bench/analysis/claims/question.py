"""Questions: the cases that the claims need, as plain data, and the records that answer them."""

from dataclasses import dataclass, replace

from muse_bench.config import Logits, Mode, Optimizer, Sizes
from muse_bench.models.variants import find_model
from muse_bench.record import Record

PLACES = ("vocab_size", "d_model", "n_layers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A model at some sizes under a protocol; the optimizer is the preset's unless one is named."""

    model: str
    sizes: Sizes
    batch: int
    mode: Mode
    logits: Logits = "all"
    optimizer: Optimizer | None = None
    micro_batch: int | None = None

    def of(self, model: str) -> "Question":
        """The same question about another model."""
        return replace(self, model=model)

    def is_answered_by(self, record: Record) -> bool:
        """Whether a record is of this case, on whatever machine and with whatever workspaces."""
        asked = (self.model, self.batch, self.sizes.seq_len, self.mode, self.logits)
        if asked != (record.model, record.batch, record.seq, record.mode, record.logits):
            return False
        preset = None if ":" in self.model else find_model(self.model)
        if record.dtype != ("fp32" if preset is None else preset.dtype) or record.autocast is not None:
            return False
        if preset is None:
            return True
        micro_batch = preset.micro_batch if self.micro_batch is None else self.micro_batch
        trains = self.mode == "train"
        own = not trains or (record.optimizer or "none") == (self.optimizer or preset.optimizer)
        return own and record.micro_batch == micro_batch and self._fits(record)

    def _fits(self, record: Record) -> bool:
        return all(record.config.get(name) == getattr(self.sizes, name) for name in PLACES)
