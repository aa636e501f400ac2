"""Floors: the least memory that a mode could do with, part by part, whoever wrote the model's code. Pure arithmetic.

A floor is what must be there at once, at the instant that needs most. What another program could avoid is not in it:
saved activations (they can be computed again), attention's products (tiled), the logits of a fused loss, workspaces.
"""

import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from muse_bench.config import Case, Sizes
from muse_bench.footprint import Footprint
from muse_bench.record import Record
from muse_bench.units import MIB

Category = Literal["parameters", "gradients", "optimizer_state", "activations", "inputs"]
CATEGORIES: tuple[Category, ...] = typing.get_args(Category)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a floor: where the ledger counts it, its formula in words, its bytes."""

    category: Category
    formula: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Floor:
    """The parts of the instant that needs most, with all weights where the model has them; and a bound without them.

    `streamed_bytes` is the bound when weights, gradients and optimizer state live in host memory, and the device holds
    the weight of one product at a time. A model that has them there may do with less, tile by tile.
    """

    parts: tuple[Part, ...]
    streamed_bytes: int

    @property
    def total_bytes(self) -> int:
        """The least that the mode takes with the weights where the model has them."""
        return sum(part.size_bytes for part in self.parts)

    def of(self, category: Category) -> int:
        """What the floor holds of one category, in bytes."""
        return sum(part.size_bytes for part in self.parts if part.category == category)


def floor_of(case: Case, counted: Footprint) -> Floor:
    """The floor of a case whose parts were counted."""
    inputs = Part("inputs", "ids, and in train targets: batch x sequence x 8 bytes each", counted.inputs_bytes)
    weights = Part("parameters", "every parameter and buffer once, in the dtype it is kept in", counted.weights_bytes)
    instants = INSTANTS[case.mode](case, counted)
    if case.config is not None and case.config.weights == "host":
        weights = Part("parameters", "none: weights, gradients and state in host memory, read a tile at a time", 0)
        instants = tuple(tuple(part for part in one if part.category == "activations") for one in instants)
    most = max(instants, key=_sum)
    passing = max(_sum(part for part in instant if part.category == "activations") for instant in instants)
    return Floor(
        parts=(inputs, weights, *most),
        streamed_bytes=counted.inputs_bytes + counted.largest_operand_bytes + passing,
    )


Instant = tuple[Part, ...]


def _train(case: Case, counted: Footprint) -> tuple[Instant, ...]:
    """The update, or the backward pass of a layer."""
    state = Part("optimizer_state", "what the optimizer keeps between steps", counted.optimizer_bytes)
    return (state, _gradients(case, counted)), (state, _backward(case, counted))


def _forward_backward(case: Case, counted: Footprint) -> tuple[Instant, ...]:
    """The end of backward, or the backward pass of a layer; the protocol keeps the output and all gradients."""
    output = _output(case, counted, min(case.micro_batch or case.batch, case.batch) * case.seq)
    return (output, _gradients(case, counted)), (output, _backward(case, counted))


def _inference(case: Case, counted: Footprint) -> tuple[Instant, ...]:
    """The passage through the layers, or its end; a causal model may go layer by layer or token by token."""
    stream = case.seq * counted.token_vector_bytes
    state = counted.state_per_sequence_bytes
    text = "one sequence's residual stream, in place: sequence x d_model"
    if state is not None:
        text += "; or the state of all layers, which is less, a token at a time" if state < stream else ""
        stream = min(stream, state)
    output = _output(case, counted, case.batch * (case.seq if case.logits == "all" else 1))
    return (Part("activations", text, stream),), (output,)


def _decode(case: Case, counted: Footprint) -> tuple[Instant, ...]:
    """Between two new tokens."""
    assert counted.state_per_sequence_bytes is not None  # the case refuses models that are not causal
    text = "batch x the state of a sequence: its keys and values, or its recurrent state"
    state = Part("activations", text, case.batch * counted.state_per_sequence_bytes)
    return ((state, _output(case, counted, case.batch)),)


INSTANTS: dict[str, Callable[[Case, Footprint], tuple[Instant, ...]]] = {
    "train": _train,
    "forward-backward": _forward_backward,
    "inference": _inference,
    "decode": _decode,
}


def _gradients(case: Case, counted: Footprint) -> Part:
    if case.mode == "train" and case.update == "in-backward":
        return Part("gradients", "the largest parameter's: each is used up in backward", counted.largest_gradient_bytes)
    return Part("gradients", "one for every parameter", counted.gradients_bytes)


def _backward(case: Case, counted: Footprint) -> Part:
    text = "one sequence's residual stream and its gradient: 2 x sequence x d_model"
    return Part("activations", text, 2 * case.seq * counted.token_vector_bytes)


def _output(case: Case, counted: Footprint, tokens: int) -> Part:
    text = f"the logits that the protocol keeps: vocabulary x {tokens:,}"
    return Part("activations", text, tokens * counted.token_logits_bytes)


def _sum(parts: Iterable[Part]) -> int:
    return sum(part.size_bytes for part in parts)


@dataclass(frozen=True, slots=True)
class Bounded:
    """A record and the floor of its case."""

    record: Record
    floor: Floor

    @property
    def ratio(self) -> float | None:
        """How many times its floor the peak is; None without a peak."""
        return self.over(self.floor)

    def over(self, floor: Floor) -> float | None:
        """How many times this floor the peak is; None without a peak."""
        peak = self.record.peak_allocated_bytes
        return None if peak is None or self.record.status != "ok" else peak / floor.total_bytes

    def taken(self, category: Category) -> int | None:
        """What the peak holds of one category, in bytes; None without a ledger."""
        ledger = self.record.ledger
        if ledger is None:
            return None
        if category == "parameters":
            return ledger.parameters + ledger.buffers
        return int(getattr(ledger, category))


class Reported(NamedTuple):
    """A part of the floor that an earlier report names, in bytes, and what a program needs of it."""

    part: str
    size_bytes: int
    needed: str
    is_logits: bool = False


# The parts of the least memory that the reports hold possible: inference of `ultimate` at the sizes of REPORTED_SIZES.
REPORTED_SIZES = Sizes(vocab_size=10_000, d_model=512, n_layers=6, n_heads=16, seq_len=512)
REPORTED = (
    Reported("input embedding", 1 * MIB, "the vectors of the tokens at hand"),
    Reported("layer outputs", 6 * MIB, "one at a time, and each may replace the one before"),
    Reported("attention or SSM state", 3 * MIB, "a running sum, which is not needed at once with the logits"),
    Reported("FFN intermediate", 3 * MIB, "those of the tokens at hand"),
    Reported("output head", 10 * MIB, "the logits of all positions, if all are asked for", is_logits=True),
    Reported("checkpointing overhead", 5 * MIB, "nothing is kept for a backward pass that never runs"),
)
