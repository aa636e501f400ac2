"""Cross-entropy of a linear head: the definition, which holds all the logits."""

import torch
from torch import Tensor
from torch.nn import functional

from muse_kernels.precision import accumulation_dtype


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    ignore_index: int,
    reduction: str,
    z_loss: float,
) -> Tensor:
    """Cross-entropy of x @ weight^T + bias, plus z_loss * logsumexp^2."""
    return cross_entropy(functional.linear(x, weight, bias), targets, ignore_index, reduction, z_loss)


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    ignore_index: int,
    reduction: str,
    z_loss: float,
) -> Tensor:
    """Cross-entropy of logits (tokens, vocab_size), plus z_loss * logsumexp^2."""
    logits = logits.to(accumulation_dtype(logits.dtype))
    loss = functional.cross_entropy(logits, targets, ignore_index=ignore_index, reduction=reduction)
    if z_loss == 0:
        return loss
    valid = targets != ignore_index
    squares = torch.where(valid, torch.logsumexp(logits, -1).square(), 0).sum()
    return loss + z_loss * (squares / valid.sum() if reduction == "mean" else squares)
