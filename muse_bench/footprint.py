"""What a case cannot do without, in bytes, counted on the model itself: the terms that floors are made of. No torch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Sizes of a case's parts. `parameters` is a count, all else is bytes.

    `weights_bytes` are parameters and buffers; `largest_operand_bytes` is the largest weight of a matrix product;
    `token_vector_bytes` and `token_logits_bytes` are the residual stream and the logits of one token.
    `state_per_sequence_bytes` is what all blocks remember of a sequence; None for a model that is not causal.
    """

    parameters: int
    weights_bytes: int
    gradients_bytes: int
    largest_gradient_bytes: int
    largest_operand_bytes: int
    optimizer_bytes: int
    inputs_bytes: int
    token_vector_bytes: int
    token_logits_bytes: int
    state_per_sequence_bytes: int | None
