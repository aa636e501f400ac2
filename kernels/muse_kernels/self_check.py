"""Self-check of the Triton kernels on the machine at hand: outputs and gradients against the reference in float64.

A new GPU, driver or Triton can make a kernel compile to something that is wrong. `check` says so in a second or two;
a few small, odd sizes stand for the rest, and the test suite for what they leave out.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from muse_kernels.causal_convolution import causal_convolution
from muse_kernels.diagonal_scan import diagonal_scan
from muse_kernels.discretise import discretise
from muse_kernels.gated_rms_norm import gated_rms_norm
from muse_kernels.gated_scan import gated_scan
from muse_kernels.implementation import Implementation
from muse_kernels.int4_unpack import int4_unpack, packed_shapes
from muse_kernels.int8_linear import int8_linear
from muse_kernels.linear_cross_entropy import linear_cross_entropy, tensor_train_cross_entropy
from muse_kernels.low_rank_ffn import low_rank_ffn
from muse_kernels.precision import accumulation_dtype
from muse_kernels.rms_norm import rms_norm
from muse_kernels.semiseparable_mix import semiseparable_mix, semiseparable_step
from muse_kernels.tensor_train import tt_shape
from muse_kernels.tt_embedding import tt_embedding
from muse_kernels.tt_linear import tt_linear

DRAWS = 8  # one number, such as a loss, may err little by luck: errors are pooled over several inputs
TOKENS, VOCAB, WIDTH, RANK = 19, 43, 21, 3
WIDE = 131  # no head that is wider than 128 is narrow, in any dtype
SEQ = 67  # two chunks of the mixer, 64 steps and 3
LONG, CHANNELS = 1_031, 17  # nine chunks of the scans, the last of them short
REMEMBERS = 3.0  # decays of about 0.95: what a chunk hands on counts through all of the next

ALL = (torch.float32, torch.bfloat16, torch.float16)
NO_FP16 = ALL[:2]  # what is meant for float32 and bfloat16

Results = Tensor | tuple[Tensor, ...]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A call (implementation, *inputs) of one operation, with the shapes of its floating inputs by name.

    `outputs` names what the call returns. An operation that is not `differentiable` has its outputs checked alone.
    """

    call: Callable[..., Results]
    shapes: Mapping[str, Shape]
    outputs: tuple[str, ...] = ("output",)
    differentiable: bool = True
    dtypes: tuple[torch.dtype, ...] = ALL


@dataclass(frozen=True, slots=True)
class Figure:
    """The error of one output or gradient, and the largest that passes: root mean squares over all draws."""

    what: str
    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the error is small enough; an error that is not a number is not."""
        return self.error <= self.allowed

    @property
    def share(self) -> float:
        """The error over the allowed one; infinite where it is not a number."""
        if self.passed:
            return self.error / self.allowed if self.allowed else 0.0
        return self.error / self.allowed if self.allowed and math.isfinite(self.error) else math.inf


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a check found for each output and each gradient."""

    name: str
    dtype: torch.dtype
    figures: tuple[Figure, ...]

    @property
    def passed(self) -> bool:
        """Whether every figure passes."""
        return all(figure.passed for figure in self.figures)

    @property
    def worst(self) -> Figure:
        """The figure that takes the largest share of what is allowed."""
        return max(self.figures, key=lambda figure: figure.share)


def check(name: str, device: torch.device | str, dtype: torch.dtype, *, draws: int = DRAWS) -> Outcome:
    """Runs the Triton implementation of one row of `ROWS` and holds it against the reference.

    Each output and gradient may err at most twice what the reference errs in the same dtype, plus one unit in the last
    place: both against the reference in float64, in the root mean square over all draws. Memory that the kernels
    take is filled with NaN first, so that what they do not write shows. The global random state is left alone.

    Args:
        name: a key of `ROWS`.
        device: a CUDA device; or a CPU in Triton's interpreter (TRITON_INTERPRET=1).
        dtype: float32, bfloat16 or float16.
        draws: how many random inputs.
    Raises: KeyError on another name; ValueError where Triton cannot run; whatever compiling or launching raises.
    """
    row = ROWS[name]
    generator = torch.Generator().manual_seed(0)
    squares = [_compare(row, _inputs(row, generator, device, dtype), seed) for seed in range(draws)]
    names = [*row.outputs, *(f"gradient of {name}" for name in row.shapes if row.differentiable)]
    figures = [_figure(what, results) for what, results in zip(names, zip(*squares, strict=True), strict=True)]
    return Outcome(name, dtype, tuple(figures))


@dataclass(frozen=True, slots=True)
class _Squares:
    """Mean squares of one result: of our error, of the reference's in the same dtype, of the value."""

    ours: float
    theirs: float
    value: float
    unit: float  # in the last place, of the result's dtype


def _figure(what: str, draws: Sequence[_Squares]) -> Figure:
    ours, theirs, value = (
        math.sqrt(math.fsum(getattr(draw, name) for draw in draws) / len(draws)) for name in ("ours", "theirs", "value")
    )
    return Figure(what, ours, 2 * theirs + draws[0].unit * value)


def _inputs(row: Row, generator: torch.Generator, device: torch.device | str, dtype: torch.dtype) -> list[Tensor]:
    return [torch.randn(shape, generator=generator).to(device, dtype) for shape in row.shapes.values()]


def _compare(row: Row, inputs: Sequence[Tensor], seed: int) -> list[_Squares]:
    """One draw: a row of squares for each output, then for each input's gradient."""
    exact = _results(row, "reference", [tensor.double() for tensor in inputs], seed)
    plain = _results(row, "reference", inputs, seed)
    with _poisoned_memory():
        ours = _results(row, "triton", inputs, seed)
    return [_squares(*three) for three in zip(exact, plain, ours, strict=True)]


def _squares(truth: Tensor, theirs: Tensor, ours: Tensor) -> _Squares:
    if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
        raise TypeError(f"the kernel gives {ours.dtype} {tuple(ours.shape)}, not {theirs.dtype} {tuple(theirs.shape)}")
    ours_square, theirs_square, value = (
        tensor.double().square().mean().item() for tensor in (ours - truth, theirs - truth, truth)
    )
    return _Squares(ours_square, theirs_square, value, torch.finfo(ours.dtype).eps)


def _results(row: Row, implementation: Implementation, inputs: Sequence[Tensor], seed: int) -> list[Tensor]:
    """The outputs, then the gradient of every input for cotangents that are the same in every dtype."""
    leaves = [tensor.clone().requires_grad_(row.differentiable) for tensor in inputs]
    with torch.enable_grad():
        returned = row.call(implementation, *leaves)
    outputs = returned if isinstance(returned, tuple) else (returned,)
    if not row.differentiable:
        return list(outputs)
    generator = torch.Generator().manual_seed(seed)
    cotangents = [torch.randn(output.shape, generator=generator).bfloat16().to(output) for output in outputs]
    return [output.detach() for output in outputs] + list(torch.autograd.grad(outputs, leaves, cotangents))


@contextmanager
def _poisoned_memory() -> Iterator[None]:
    """PyTorch fills uninitialised memory with NaN where algorithms are to be deterministic."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on the few operations that have no deterministic algorithm
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
            yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _ids(like: Tensor) -> Tensor:
    """Token ids, some of them repeated, with the vocabulary's first and last."""
    ids = torch.arange(TOKENS) ** 2 * 7 % VOCAB
    ids[-1] = VOCAB - 1
    return ids.to(like.device)


def _targets(like: Tensor) -> Tensor:
    """Token ids, one of them ignored."""
    targets = _ids(like)
    targets[4] = -100
    return targets


def _embed(implementation: Implementation, core1: Tensor, core2: Tensor, theta: Tensor) -> Tensor:
    sizes = {"vocab_size": VOCAB, "d_model": WIDTH}
    return tt_embedding(_ids(core1), core1, core2, theta, implementation=implementation, **sizes)


def _tt_logits(implementation: Implementation, x: Tensor, core1: Tensor, core2: Tensor, theta: Tensor) -> Tensor:
    return tt_linear(x, core1, core2, theta, vocab_size=VOCAB, implementation=implementation)


def _tt_loss(implementation: Implementation, x: Tensor, core1: Tensor, core2: Tensor, theta: Tensor) -> Tensor:
    return tensor_train_cross_entropy(
        x, core1, core2, theta, _targets(x), vocab_size=VOCAB, z_loss=0.1, implementation=implementation
    )


def _loss(implementation: Implementation, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return linear_cross_entropy(x, weight, _targets(x), bias=bias, z_loss=0.1, implementation=implementation)


def _running_sum(implementation: Implementation, x: Tensor) -> Tensor:
    return diagonal_scan(x, implementation=implementation)


def _scan(implementation: Implementation, x: Tensor, decay: Tensor) -> Tensor:
    return diagonal_scan(x, (decay + REMEMBERS).sigmoid(), implementation=implementation)


def _gated_sum(implementation: Implementation, u: Tensor, v: Tensor, scores: Tensor) -> Tensor:
    return gated_scan(u, v, scores, implementation=implementation)


def _gated_scan(
    implementation: Implementation, u: Tensor, v: Tensor, scores: Tensor, decay: Tensor, initial: Tensor
) -> tuple[Tensor, Tensor]:
    decay = (decay + REMEMBERS).sigmoid()
    return gated_scan(u, v, scores, decay, initial=initial, return_state=True, implementation=implementation)


def _convolve(implementation: Implementation, x: Tensor, weight: Tensor, before: Tensor, add: Tensor) -> Tensor:
    return causal_convolution(x, weight, before, add=add, implementation=implementation)


def _mix(
    implementation: Implementation, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    wide = state.to(accumulation_dtype(v.dtype))
    output, final = semiseparable_mix(
        q,
        k,
        v,
        logsigmoid(decay + REMEMBERS),
        initial_state=wide,
        return_final_state=True,
        implementation=implementation,
    )
    return output, final.to(v.dtype)  # it is as accurate as that


def _step(
    implementation: Implementation, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    state = state.to(accumulation_dtype(v.dtype), copy=True)
    output = semiseparable_step(q, k, v, logsigmoid(decay + REMEMBERS), state, implementation=implementation)
    return output, state.to(v.dtype)


def _norm(implementation: Implementation, x: Tensor, weight: Tensor) -> Tensor:
    return rms_norm(x, weight, implementation=implementation)


def _residual_norm(implementation: Implementation, x: Tensor, weight: Tensor, residual: Tensor) -> Results:
    return rms_norm(x, weight, residual=residual, implementation=implementation)


def _discretised(implementation: Implementation, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    return discretise(*inputs, implementation=implementation)


def _gated_norm(implementation: Implementation, *inputs: Tensor) -> Tensor:
    return gated_rms_norm(*inputs, implementation=implementation)


def _ffn(implementation: Implementation, x: Tensor, *parameters: Tensor) -> Tensor:
    return low_rank_ffn(x, parameters[::2], parameters[1::2], activation="gelu", implementation=implementation)


def _int8(implementation: Implementation, x: Tensor, bias: Tensor) -> Tensor:
    weight = (torch.arange(VOCAB * WIDTH, device=x.device).view(VOCAB, WIDTH) * 37 % 255 - 127).to(torch.int8)
    scale = torch.linspace(0.001, 0.02, VOCAB, device=x.device).to(accumulation_dtype(x.dtype))
    return int8_linear(x, weight, scale, bias=bias, implementation=implementation)


def _int4(implementation: Implementation, scale: Tensor) -> Tensor:
    rows, columns = packed_shapes(VOCAB, WIDE)[0]
    packed = (torch.arange(rows * columns, device=scale.device).view(rows, columns) * 37 % 256).to(torch.uint8)
    return int4_unpack(packed, scale, WIDE, implementation=implementation)


def _gated(shape: Shape) -> dict[str, Shape]:
    batch, _, rank = shape
    return {**dict.fromkeys(("u", "v", "scores"), shape), "decay": (rank,), "initial": (batch, rank)}


_V, _D = tt_shape(VOCAB), tt_shape(WIDTH)
_CORES = {"core1": (_V[0], RANK, _D[0]), "core2": (_V[1], RANK, _D[1]), "theta": (RANK,)}
_X = {"x": (TOKENS, WIDTH)}
_SEQUENCE = (2, SEQ, RANK)
_LONG = (1, LONG, CHANNELS)
_MIXED = {"q": (1, SEQ, 1, 5), "k": (1, SEQ, 1, 5), "v": (1, SEQ, 2, 3), "decay": (1, SEQ, 2), "state": (1, 2, 5, 3)}
_HEADS = {**dict.fromkeys(("x", "v"), (1, TOKENS, 3, WIDTH // 3)), "skip": (3,)}
_NARROW = {"weight 1": (RANK, WIDTH), "bias 1": (RANK,), "weight 2": (WIDTH, RANK), "bias 2": (WIDTH,)}
_FOUR = {
    "weight 1": (RANK, WIDTH),
    "bias 1": (RANK,),
    "weight 2": (37, RANK),
    "bias 2": (37,),
    "weight 3": (RANK, 37),
    "bias 3": (RANK,),
    "weight 4": (WIDTH, RANK),
    "bias 4": (WIDTH,),
}
_STATE = ("output", "final state")

ROWS: Mapping[str, Row] = {  # the first word is the operation
    "tt_embedding": Row(_embed, _CORES),
    "tt_linear": Row(_tt_logits, {**_X, **_CORES}),
    "diagonal_scan": Row(_scan, {"x": _SEQUENCE, "decay": _SEQUENCE}, dtypes=NO_FP16),
    "diagonal_scan chunks": Row(_scan, {"x": _LONG, "decay": _LONG}, dtypes=NO_FP16),
    "diagonal_scan running sum": Row(_running_sum, {"x": _SEQUENCE}),
    "gated_scan": Row(_gated_scan, _gated(_SEQUENCE), _STATE, dtypes=NO_FP16),
    "gated_scan chunks": Row(_gated_scan, _gated(_LONG), _STATE, dtypes=NO_FP16),
    "gated_scan running sum": Row(_gated_sum, dict.fromkeys(("u", "v", "scores"), _SEQUENCE)),
    "causal_convolution": Row(_convolve, {"x": (2, SEQ, 5), "weight": (3, 5), "before": (2, 2, 5), "add": (2, SEQ, 5)}),
    "semiseparable_mix": Row(_mix, _MIXED, _STATE, dtypes=NO_FP16),
    "semiseparable_step": Row(
        _step,
        {name: shape if name == "state" else (shape[0], *shape[2:]) for name, shape in _MIXED.items()},
        _STATE,
        differentiable=False,
        dtypes=NO_FP16,
    ),
    "linear_cross_entropy narrow": Row(_loss, {**_X, "weight": (VOCAB, WIDTH), "bias": (VOCAB,)}),
    "linear_cross_entropy wide": Row(_loss, {"x": (TOKENS, WIDE), "weight": (VOCAB, WIDE), "bias": (VOCAB,)}),
    "tensor_train_cross_entropy": Row(_tt_loss, {**_X, **_CORES}),
    "low_rank_ffn": Row(_ffn, {**_X, **_NARROW}),
    "low_rank_ffn four matrices": Row(_ffn, {**_X, **_FOUR}),
    "rms_norm": Row(_norm, {**_X, "weight": (WIDTH,)}),
    "rms_norm residual": Row(
        _residual_norm, {**_X, "weight": (WIDTH,), "residual": (TOKENS, WIDTH)}, ("output", "sum")
    ),
    "discretise": Row(
        _discretised,
        {"v": (2, SEQ, 3, 5), "steps": (2, SEQ, 3), "bias": (3,), "rate": (3,)},
        ("decay", "output"),
    ),
    "gated_rms_norm": Row(_gated_norm, {**_HEADS, "gate": (1, TOKENS, WIDTH), "weight": (WIDTH,)}),
    "int4_unpack": Row(_int4, {"scale": packed_shapes(VOCAB, WIDE)[1]}, differentiable=False),
    "int8_linear": Row(_int8, {**_X, "bias": (VOCAB,)}),
}
