"""Feed-forward of low rank: two linear layers through a narrow one, or four through narrow, wide and narrow."""

from collections.abc import Sequence
from typing import get_args

from torch import Tensor

from muse_kernels.arguments import (
    check_dimensions,
    check_dtype,
    check_floating,
    check_last_dimension,
    check_same_device,
    check_shape,
)
from muse_kernels.implementation import Implementation, Resolved, resolve
from muse_kernels.low_rank_ffn.activation import Activation
from muse_kernels.low_rank_ffn.autograd import LowRankFFN
from muse_kernels.low_rank_ffn.fused import MAX_RANK, FusedLowRankFFN
from muse_kernels.low_rank_ffn.reference import low_rank_ffn as reference


def low_rank_ffn(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    *,
    activation: Activation = "relu",
    implementation: Implementation = "auto",
) -> Tensor:
    """Linear layers d_model -> rank -> d_model, or d_model -> rank -> wide -> rank -> d_model, activated between.

    Args:
        x: (*, d_model).
        weights: two, (rank, d_model) and (d_model, rank); or four, (rank, d_model), (wide, rank), (rank, wide)
            and (d_model, rank); dtype of x.
        biases: one for each weight, of its first dimension; dtype of x.
        activation: "relu", or "gelu" (exact, by erf).
        implementation: "reference", "eager", "triton" (rank up to 256), or "auto" (see `resolve`; "eager" above
            that rank).
    Returns: (*, d_model), dtype of x. Sums are held in float32 (float64 for float64).
    Memory: saves x, and the narrow pre-activations, n tensors of (rows, rank), n = 1 for two weights and 2 for
        four; the parameters by reference. Scratch of "triton": none in forward; in backward 2 * n tensors of
        (rows, rank), and ceil(rows / t) * (d_model + n * rank) * 4 with t = 16, or 32 or 64 where that leaves
        more than 124 shares; for four weights also s * wide * (2 * rank + 1) * 4 with s = ceil(rows / 512), or
        264 * 64 / wide if that is less, and at least 1. Of "eager": five tensors of (rows, rank); for four weights
        also n chunks of ceil(max(bytes of x, 1 MiB) / (n * wide * element_size)) rows of the wide layer, n = 1 in
        forward and 2 in backward, and in backward the wide layers' gradients in float32 and one product of
        theirs. A non-contiguous parameter is copied; in backward also x, and a gradient that arrives expanded.
    Raises: ValueError on a shape, dtype or device mismatch, or an unknown activation.
    Source: Sainath et al. 2013, Low-rank matrix factorization for deep neural network training, ICASSP.
    """
    if activation not in get_args(Activation):
        raise ValueError(f"activation: {activation!r} is unknown; choose from {', '.join(get_args(Activation))}")
    _check_layers(x, weights, biases)
    chosen = _resolve(implementation, [x, *weights, *biases], weights[0].shape[0])
    if chosen == "reference":
        return reference(x, weights, biases, activation)
    ffn = FusedLowRankFFN if chosen == "triton" else LowRankFFN
    parameters = [tensor for pair in zip(weights, biases, strict=True) for tensor in pair]
    return ffn.apply(x, activation, *parameters)  # type: ignore[no-any-return, no-untyped-call]


def _check_layers(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
    if len(weights) not in (2, 4) or len(biases) != len(weights):
        raise ValueError(f"weights: expected two or four, with as many biases; got {len(weights)} and {len(biases)}")
    check_floating("x", x)
    check_dimensions("weights[0]", weights[0], ["rank", "d_model"])
    rank, d_model = weights[0].shape
    check_last_dimension("x", x, d_model)
    shapes = [(rank, d_model), (d_model, rank)]
    if len(weights) == 4:
        check_dimensions("weights[1]", weights[1], ["wide", "rank"])
        wide = weights[1].shape[0]
        shapes[1:1] = [(wide, rank), (rank, wide)]
    for index, (weight, bias, shape) in enumerate(zip(weights, biases, shapes, strict=True)):
        check_shape(f"weights[{index}]", weight, shape)
        check_shape(f"biases[{index}]", bias, shape[:1])
        check_dtype(f"weights[{index}]", weight, [x.dtype])
        check_dtype(f"biases[{index}]", bias, [x.dtype])
        check_same_device(x=x, **{f"weights[{index}]": weight, f"biases[{index}]": bias})


def _resolve(implementation: Implementation, operands: Sequence[Tensor], rank: int) -> Resolved:
    if rank <= MAX_RANK:
        return resolve(implementation, *operands)
    if implementation == "triton":
        raise ValueError(f"implementation: the Triton kernel takes a rank of at most {MAX_RANK}, not {rank}")
    return resolve(implementation)
