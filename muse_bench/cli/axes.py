"""What can grow along a frontier: by which steps, how far, and what else grows with it."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from muse_bench.choices import choices
from muse_bench.cli.options import ScaleOptions, SizeOptions
from muse_bench.config import Case, Sizes
from muse_bench.errors import UsageError
from muse_bench.models.parameters import count_parameters
from muse_bench.models.shapes import least_parameters
from muse_bench.models.variants import find_model

Vary = Literal["batch", "seq", "layers", "width", "params"]
SEQ_STEP = 64
MILLION = 10**6  # parameters
MICRO_BATCHES = 8  # each is traced anew, and takes no memory but its tokens'
LARGEST: dict[Vary, int] = {"batch": 65_536, "seq": 1 << 20, "layers": 512, "width": 16_384, "params": 10**12}
# A wide model is deep, and slow to trace.
LEAPS: dict[Vary, int] = {"batch": 16, "seq": 16, "layers": 16, "width": 4, "params": 4}
TOLERANCES: dict[Vary, float] = {"batch": 0.0, "seq": 0.01, "layers": 0.0, "width": 0.0, "params": 0.0}
DIGITS: dict[Vary, int] = {"params": 2}  # as models are called
SIZES: dict[Vary, str] = {
    "batch": "batch",
    "seq": "seq",
    "layers": "layers",
    "width": "d_model",
    "params": "parameters",
}


@dataclass(frozen=True, slots=True)
class Axis:
    """One size that grows, in steps of `unit`; `start`, `largest` and `least` count steps."""

    vary: Vary
    unit: int
    start: int
    largest: int
    least: int = 1

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

    @property
    def digits(self) -> int | None:
        """Those that a value may have before its zeros."""
        return DIGITS.get(self.vary)

    def resize(self, sizes: SizeOptions, count: int) -> SizeOptions | ScaleOptions:
        """The sizes with this many steps of what grows; with the width, heads and layers grow in proportion.

        A number of parameters chooses all three.
        """
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
            case "params":
                return ScaleOptions(vocab=sizes.vocab, params=str(value), seq=sizes.seq, batch=sizes.batch)


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
    if vary in ("layers", "width", "params") and case.config is None:
        raise UsageError(f"'{case.model}' has sizes of its own: --vary {vary} is for presets; use batch or seq")
    if vary == "width" and sizes.d_model % sizes.heads:
        raise UsageError(
            f"--vary width keeps the size of a head: d_model {sizes.d_model} is not divisible by heads {sizes.heads}"
        )
    if vary == "params":
        return _parameters_axis(case)
    now = {"batch": sizes.batch, "seq": sizes.seq, "layers": sizes.layers, "width": sizes.d_model}[vary]
    unit = {"batch": 1, "seq": SEQ_STEP, "layers": 1, "width": sizes.d_model // sizes.heads}[vary]
    largest = LARGEST[vary]
    if vary == "batch" and case.micro_batch is not None:
        largest = min(largest, MICRO_BATCHES * case.micro_batch)
    return Axis(vary=vary, unit=unit, start=max(1, now // unit), largest=max(1, largest // unit))


def _parameters_axis(case: Case) -> Axis:
    """From the parameters that the case has now, down to those of the smallest shape."""
    config = case.config
    assert config is not None
    sizes = Sizes(
        vocab_size=config.vocab_size,
        d_model=config.d_model,
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        seq_len=config.max_seq_len,
    )
    return Axis(
        vary="params",
        unit=MILLION,
        start=max(1, count_parameters(config) // MILLION),
        largest=LARGEST["params"] // MILLION,
        least=-(-least_parameters(find_model(case.model), sizes) // MILLION),
    )
