"""One training run as plain data: the case, the rate, the tokens, the files, and the schedule of the rate. No torch."""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any, Self

from muse_bench.config import Case
from muse_bench.quality.record import Stage

WARMUP_SHARE = 0.05
FINAL_SHARE = 0.1
CLIP_NORM = 1.0
CURVE_POINTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A model trained once: everything a worker process needs.

    `tokens` is a multiple of batch * seq. Of the training file the first `pool_tokens` are used, whatever else it
    holds. `fingerprint` names the text, the tokenizer and the software in the key of an unfinished run.
    """

    case: Case
    stage: Stage
    lr: float
    tokens: int
    pool_tokens: int
    validation_tokens: int
    train: str
    validation: str
    lengths: str
    fingerprint: str = ""
    tf32: bool = False
    compiled: bool = False
    graphs: bool = False
    checkpoint: str | None = None
    checkpoint_seconds: float = 60.0

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return self.tokens // (self.case.batch * self.case.seq)

    @property
    def window(self) -> int:
        """Steps between two looks at the loss, each of which waits for the device; a point of the curve each."""
        return math.ceil(self.steps / CURVE_POINTS)

    @property
    def passes(self) -> float:
        """How often the training text is gone through."""
        return self.tokens / self.pool_tokens

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0: a linear warm-up over 5 % of the steps, a cosine down to a tenth."""
        warmup = max(1, round(WARMUP_SHARE * self.steps))
        if step < warmup:
            return self.lr * (step + 1) / warmup
        progress = (step - warmup) / max(1, self.steps - warmup)
        return self.lr * (FINAL_SHARE + (1 - FINAL_SHARE) * (1 + math.cos(math.pi * progress)) / 2)

    @property
    def key(self) -> str:
        """The name of what an interruption leaves: all that decides the outcome, and no path."""
        values = self.to_json()
        for name in ("train", "validation", "lengths", "checkpoint", "checkpoint_seconds"):
            del values[name]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:24]

    def to_json(self) -> dict[str, Any]:
        """Plain values, as `from_json` reads them."""
        return {**dataclasses.asdict(self), "case": self.case.to_json()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The trial that `to_json` wrote."""
        return cls(**{**values, "case": Case.from_json(values["case"])})
