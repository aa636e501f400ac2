"""Next-token loss fused with the output head, dense or tensor-train: never all tokens' logits at once."""

from typing import Literal

import torch
from torch import Tensor

from muse_kernels.arguments import (
    check_dimensions,
    check_dtype,
    check_floating,
    check_ids,
    check_last_dimension,
    check_reduction,
    check_same_device,
    check_shape,
)
from muse_kernels.implementation import Implementation, Resolved, resolve
from muse_kernels.linear_cross_entropy.autograd import LinearCrossEntropy
from muse_kernels.linear_cross_entropy.fused import FusedCrossEntropy
from muse_kernels.linear_cross_entropy.fused_tensor_train import FusedTensorTrainCrossEntropy
from muse_kernels.linear_cross_entropy.reference import cross_entropy
from muse_kernels.linear_cross_entropy.reference import linear_cross_entropy as reference
from muse_kernels.linear_cross_entropy.softmax import Loss
from muse_kernels.linear_cross_entropy.tensor_train import TensorTrainCrossEntropy
from muse_kernels.tensor_train import check_cores
from muse_kernels.tt_linear.reference import tt_linear

Reduction = Literal["mean", "sum"]


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    z_loss: float = 0.0,
    implementation: Implementation = "auto",
) -> Tensor:
    """Cross-entropy of the logits x @ weight^T + bias, plus z_loss * logsumexp^2, without holding the logits.

    Args:
        x: (tokens, d_model).
        weight: (vocab_size, d_model), dtype of x.
        targets: (tokens,), int64, values in [0, vocab_size) or ignore_index.
        bias: (vocab_size,), dtype of x.
        ignore_index: targets of this value count neither in the sum nor in the mean.
        reduction: "mean" over the tokens not ignored, or "sum".
        z_loss: weight of the squared logsumexp, which keeps logits from drifting.
        implementation: "reference", "eager", "triton", or "auto" (triton on CUDA).
    Returns: scalar, float32 (float64 for float64), as the softmax is; the mean of no tokens is nan, with zero
        gradients, as in torch.nn.functional.cross_entropy.
    Memory: saves x, targets and tokens * 8 bytes (triton: 4 more), and the parameters by reference. A matrix whose
        rows do not lie together is copied.
        triton, d_model <= 128 (float32: 32): writes no logits. Scratch: 128 bytes a token in forward; in backward
        partial sums of at most 1 % of the logits' bytes or 1 MiB.
        triton, wider, 16 bits: scratch: 128 bytes a token in forward. In backward 1 byte for each element of x, and
        the logits of all tokens for a block of the vocabulary: 1 % of all logits' bytes in float32 less the former,
        or a quarter of the bytes of x or 1 MiB if those are more. Larger blocks lie in the part of the weight's
        gradient that is not yet written. With a bias, also 256 KiB, or 4 bytes a token if those are more.
        At 8,192 tokens and a vocabulary of 50,257 all of it is less than 1 % of the float32 logits for d_model up to
        1024. The gradient of x is summed over blocks in 24 bits, from float32 products.
        triton, wider, float32: scratch: in both directions such a block, rounded up to a multiple of 64 columns.
        eager: scratch: the logits of all tokens for a block of ceil(max(bytes of x, 1 MiB) / (tokens *
        element_size)) vocabulary rows, rounded up to a multiple of 64: about the bytes of x. For a 16-bit dtype
        also their float32 copy, and in backward the gradient of x in float32.
        In all of them the weight's gradient is written once, in its dtype: nothing is summed in 16 bits.
    Raises: ValueError on a shape, dtype or device mismatch or an unknown reduction; IndexError on a target
        out of range (on CUDA: a device-side assert; on meta: unchecked).
    Source: Wijmans et al. 2024, arXiv:2411.09009; z-loss: Chowdhery et al. 2022, arXiv:2204.02311.
    """
    check_dimensions("weight", weight, ["vocab_size", "d_model"])
    _check_tokens(x, targets, weight.shape[1], reduction)
    check_dtype("weight", weight, [x.dtype])
    if bias is not None:
        check_shape("bias", bias, weight.shape[:1])
        check_dtype("bias", bias, [x.dtype])
    check_same_device(x=x, weight=weight, bias=bias)
    chosen = resolve(implementation, x, weight, bias)
    _check_range(targets, weight.shape[0], ignore_index, chosen)
    if chosen == "reference":
        return reference(x, weight, targets, bias, ignore_index, reduction, z_loss)
    function = FusedCrossEntropy if chosen == "triton" else LinearCrossEntropy
    loss = Loss(ignore_index, reduction, z_loss)
    return function.apply(x, weight, bias, targets, loss)  # type: ignore[no-any-return, no-untyped-call]


def tensor_train_cross_entropy(
    x: Tensor,
    core1: Tensor,
    core2: Tensor,
    theta: Tensor,
    targets: Tensor,
    *,
    vocab_size: int,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    z_loss: float = 0.0,
    implementation: Implementation = "auto",
) -> Tensor:
    """Cross-entropy of the logits of a tensor-train head (see tt_linear): neither table nor logits are held.

    Args:
        x: (tokens, d_model), dtype of core1.
        core1, core2, theta, vocab_size: the table E, as in tt_linear.
        targets, ignore_index, reduction, z_loss, implementation: as in linear_cross_entropy.
    Returns: scalar, as linear_cross_entropy; core gradients are summed in float32.
    Memory: saves x, targets and tokens * 8 bytes (triton: 4 more), and the parameters by reference. Nothing of
        vocab_size * d_model or tokens * vocab_size elements.
        triton: writes no logits. Scratch: a copy of core2 with v2 padded to a multiple of 128, rank and d2 to powers
        of two; 128 bytes a token in forward; in backward float32 shares of the gradients of at most 1 % of the
        logits' bytes or 1 MiB, and those of core1 for every 32 (in 16 bits: 64) of v2.
        triton, 16 bits, rank above 4, where it is quicker (many tokens and ids): the table by blocks of its rows, each
        used as a dense head. Scratch: in both directions 1 % of all logits' bytes in float32, or a quarter of the
        bytes of x or 1 MiB if those are more; and 128 bytes a token in forward. In backward that is a block of the
        table, its logits, 1 byte for each element of x, all for a chunk of the tokens at a time, and three float32
        copies of the cores at most.
        eager: scratch: that of tt_linear; for a 16-bit dtype also c * vocab_size * 4 bytes.
    Raises: ValueError and IndexError as linear_cross_entropy.
    Source: as tt_linear and linear_cross_entropy.
    """
    check_dimensions("x", x, ["tokens", "d_model"])
    check_cores(core1, core2, theta, vocab_size, x.shape[1])
    check_dtype("x", x, [core1.dtype])
    _check_tokens(x, targets, x.shape[1], reduction)
    check_same_device(x=x, core1=core1)
    chosen = resolve(implementation, x, core1, core2, theta)
    _check_range(targets, vocab_size, ignore_index, chosen)
    if chosen == "reference":
        logits = tt_linear(x, core1, core2, theta, vocab_size)
        return cross_entropy(logits, targets, ignore_index, reduction, z_loss)
    function = FusedTensorTrainCrossEntropy if chosen == "triton" else TensorTrainCrossEntropy
    loss = Loss(ignore_index, reduction, z_loss)
    return function.apply(  # type: ignore[no-any-return, no-untyped-call]
        x, core1, core2, theta, targets, vocab_size, loss
    )


def _check_range(targets: Tensor, vocab_size: int, ignore_index: int, chosen: Resolved) -> None:
    """Targets are ids or ignored; on CUDA the Triton kernels check that themselves."""
    if chosen != "triton" or not targets.is_cuda:
        check_ids("targets", targets, vocab_size, ignore_index)


def _check_tokens(x: Tensor, targets: Tensor, d_model: int, reduction: str) -> None:
    """The input rows and their targets fit each other and the head."""
    check_dimensions("x", x, ["tokens", "d_model"])
    check_floating("x", x)
    check_last_dimension("x", x, d_model)
    check_shape("targets", targets, x.shape[:1])
    check_dtype("targets", targets, [torch.int64])
    check_same_device(x=x, targets=targets)
    check_reduction(reduction)
