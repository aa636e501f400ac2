"""What can grow along a frontier: by which steps, how far, and what else grows with it."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from muse_bench.cli.options import SizeOptions
from muse_bench.config import Case, choices
from muse_bench.errors import UsageError

Vary = Literal["batch", "seq", "layers", "width"]
SEQ_STEP = 64
MICRO_BATCHES = 8  # each is traced anew, and takes no memory but its tokens'
LARGEST: dict[Vary, int] = {"batch": 65_536, "seq": 1 << 20, "layers": 512, "width": 16_384}
LEAPS: dict[Vary, int] = {"batch": 16, "seq": 16, "layers": 16, "width": 4}  # a wide model is deep, and slow to trace
TOLERANCES: dict[Vary, float] = {"batch": 0.0, "seq": 0.01, "layers": 0.0, "width": 0.0}
SIZES: dict[Vary, str] = {"batch": "batch", "seq": "seq", "layers": "layers", "width": "d_model"}


@dataclass(frozen=True, slots=True)
class Axis:
    """One size that grows, in steps of `unit`; `start` and `largest` count steps."""

    vary: Vary
    unit: int
    start: int
    largest: int

    @property
    def size(self) -> str:
        """The size's name in tables."""
        return SIZES[self.vary]

    @property
    def leap(self) -> int:
        """How many times the largest value known to fit the next guess may be."""
        return LEAPS[self.vary]

    @property
    def tolerance(self) -> float:
        """The share of a value within which its edge is close enough."""
        return TOLERANCES[self.vary]

    def resize(self, sizes: SizeOptions, count: int) -> SizeOptions:
        """The sizes with this many steps of what grows; with the width, heads and layers grow in proportion."""
        value = count * self.unit
        match self.vary:
            case "batch":
                return dataclasses.replace(sizes, batch=value)
            case "seq":
                return dataclasses.replace(sizes, seq=value)
            case "layers":
                return dataclasses.replace(sizes, layers=value)
            case "width":
                layers = max(1, round(value * sizes.layers / sizes.d_model))
                return dataclasses.replace(sizes, d_model=value, heads=count, layers=layers)


def parse_vary(text: str) -> list[Vary]:
    """The words in 'batch,seq', each once.

    Raises: UsageError for a word that names nothing that grows.
    """
    words: list[Vary] = []
    for part in text.split(","):
        word = next((known for known in LARGEST if known == part.strip()), None)
        if word is None:
            raise UsageError(f"--vary '{part.strip()}' is unknown: choose from {', '.join(choices(Vary))}")
        if word not in words:
            words.append(word)
    return words


def axis_of(vary: Vary, sizes: SizeOptions, case: Case) -> Axis:
    """How this case grows.

    Raises: UsageError for a model whose sizes are its own, and for a width that its heads do not divide.
    """
    if vary in ("layers", "width") and case.config is None:
        raise UsageError(f"'{case.model}' has sizes of its own: --vary {vary} is for presets; use batch or seq")
    if vary == "width" and sizes.d_model % sizes.heads:
        raise UsageError(
            f"--vary width keeps the size of a head: d_model {sizes.d_model} is not divisible by heads {sizes.heads}"
        )
    now = {"batch": sizes.batch, "seq": sizes.seq, "layers": sizes.layers, "width": sizes.d_model}[vary]
    unit = {"batch": 1, "seq": SEQ_STEP, "layers": 1, "width": sizes.d_model // sizes.heads}[vary]
    largest = LARGEST[vary]
    if vary == "batch" and case.micro_batch is not None:
        largest = min(largest, MICRO_BATCHES * case.micro_batch)
    return Axis(vary=vary, unit=unit, start=max(1, now // unit), largest=max(1, largest // unit))
