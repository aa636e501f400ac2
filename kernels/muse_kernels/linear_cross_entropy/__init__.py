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
from muse_kernels.implementation import Implementation, resolve
from muse_kernels.linear_cross_entropy.autograd import LinearCrossEntropy
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
        implementation: "reference", "eager", or "auto" (eager).
    Returns: scalar, float32 (float64 for float64), as the softmax is; the mean of no tokens is nan, with zero
        gradients, as in torch.nn.functional.cross_entropy.
    Memory: saves x, targets and tokens * 8 bytes, and the parameters by reference. Scratch: the
        logits of all tokens for a block of ceil(max(bytes of x, 1 MiB) / (tokens * element_size)) vocabulary
        rows, rounded up to a multiple of 64: about the bytes of x. For a 16-bit dtype also their float32
        copy, and in backward the gradient of x in float32. The weight's gradient is written once, in its
        dtype: nothing is summed in 16 bits.
    Raises: ValueError on a shape, dtype or device mismatch or an unknown reduction; IndexError on a target
        out of range (on CUDA: a device-side assert; on meta: unchecked).
    Source: Wijmans et al. 2024, arXiv:2411.09009; z-loss: Chowdhery et al. 2022, arXiv:2204.02311.
    """
    check_dimensions("weight", weight, ["vocab_size", "d_model"])
    _check_tokens(x, targets, weight.shape[0], weight.shape[1], ignore_index, reduction)
    check_dtype("weight", weight, [x.dtype])
    if bias is not None:
        check_shape("bias", bias, weight.shape[:1])
        check_dtype("bias", bias, [x.dtype])
    check_same_device(x=x, weight=weight, bias=bias)
    if resolve(implementation) == "reference":
        return reference(x, weight, targets, bias, ignore_index, reduction, z_loss)
    loss = Loss(ignore_index, reduction, z_loss)
    return LinearCrossEntropy.apply(x, weight, bias, targets, loss)  # type: ignore[no-any-return, no-untyped-call]


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
    Returns: scalar, as linear_cross_entropy; core gradients are summed over chunks in float32.
    Memory: saves x, targets and tokens * 8 bytes, and the parameters by reference. Scratch: that of
        tt_linear; for a 16-bit dtype also c * vocab_size * 4 bytes. Nothing of
        vocab_size * d_model or tokens * vocab_size elements.
    Raises: ValueError and IndexError as linear_cross_entropy.
    Source: as tt_linear and linear_cross_entropy.
    """
    check_dimensions("x", x, ["tokens", "d_model"])
    check_cores(core1, core2, theta, vocab_size, x.shape[1])
    check_dtype("x", x, [core1.dtype])
    _check_tokens(x, targets, vocab_size, x.shape[1], ignore_index, reduction)
    check_same_device(x=x, core1=core1)
    if resolve(implementation) == "reference":
        logits = tt_linear(x, core1, core2, theta, vocab_size)
        return cross_entropy(logits, targets, ignore_index, reduction, z_loss)
    loss = Loss(ignore_index, reduction, z_loss)
    return TensorTrainCrossEntropy.apply(  # type: ignore[no-any-return, no-untyped-call]
        x, core1, core2, theta, targets, vocab_size, loss
    )


def _check_tokens(
    x: Tensor,
    targets: Tensor,
    vocab_size: int,
    d_model: int,
    ignore_index: int,
    reduction: str,
) -> None:
    """The input rows and their targets fit each other and the head."""
    check_dimensions("x", x, ["tokens", "d_model"])
    check_floating("x", x)
    check_last_dimension("x", x, d_model)
    check_shape("targets", targets, x.shape[:1])
    check_dtype("targets", targets, [torch.int64])
    check_same_device(x=x, targets=targets)
    check_reduction(reduction)
    check_ids("targets", targets, vocab_size, ignore_index)
