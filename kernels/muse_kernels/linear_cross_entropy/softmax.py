"""Cross-entropy of a block of logits, and its gradient formed in place in the block; shared by both heads."""

from dataclasses import dataclass

import torch
from torch import Tensor

from muse_kernels.precision import accumulation_dtype


@dataclass(frozen=True)
class Loss:
    """How the losses of tokens make one number: mean or sum over the tokens that are not ignored."""

    ignore_index: int
    reduction: str
    z_loss: float

    def total(self, targets: Tensor, statistics: Tensor, picked: Tensor) -> Tensor:
        """The loss, from each token's statistics and its target's logit; nan for the mean of no tokens."""
        valid = targets != self.ignore_index
        top, log_sum = statistics[0], statistics[1].log()
        losses = log_sum - (picked - top)  # in this order logits far from zero cost no precision
        if self.z_loss != 0:
            losses.add_((top + log_sum).square_(), alpha=self.z_loss)
        total = losses.masked_fill_(~valid, 0).sum()
        return total / valid.sum() if self.reduction == "mean" else total

    def token_gradients(self, grad: Tensor, targets: Tensor, statistics: Tensor) -> Tensor:
        """(2, tokens): factors of exp(logit - largest) and of the onehot in the gradient of a token's logits.

        Each token's loss has the gradient softmax * (1 + 2 z logsumexp) - onehot, or 0 where ignored.
        """
        valid = targets != self.ignore_index
        share = torch.where(valid, grad / valid.sum() if self.reduction == "mean" else grad, 0)
        top, total = statistics
        drift = 1 + 2 * self.z_loss * (top + total.log()) if self.z_loss != 0 else 1
        return torch.stack([share * drift / total, -share])


def start_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Statistics (2, tokens) and target logits (tokens,) of the rows of x, before any column was seen."""
    wide = accumulation_dtype(x.dtype)
    statistics = torch.zeros(2, x.shape[0], dtype=wide, device=x.device)
    statistics[0].fill_(torch.finfo(wide).min)  # not -inf, from which -inf could not be subtracted
    return statistics, torch.zeros(x.shape[0], dtype=wide, device=x.device)


def reduce_(scores: Tensor, start: int, targets: Tensor, statistics: Tensor, picked: Tensor) -> None:
    """Takes the logits of the columns from start into each row's statistics; scores are overwritten.

    Args:
        scores: (rows, columns), logits.
        statistics: (2, rows), updated: the largest logit, and the sum of exp(logit - largest).
        picked: (rows,), updated: the target's logit, once its column is seen.
    """
    top, total = statistics
    column, inside = _target_columns(targets, start, scores.shape[1])
    picked.copy_(torch.where(inside, scores.gather(1, column.unsqueeze(1)).squeeze(1), picked))
    previous = top.clone()
    torch.maximum(top, scores.amax(1), out=top)
    total.mul_(previous.sub_(top).exp_()).add_(scores.sub_(top.unsqueeze(1)).exp_().sum(1))


def logits_gradient_(
    scores: Tensor,
    start: int,
    targets: Tensor,
    top: Tensor,
    token_gradients: Tensor,
) -> None:
    """Turns the logits of the columns from start into gradients of the loss, in place."""
    softmax_grad, target_grad = token_gradients
    column, inside = _target_columns(targets, start, scores.shape[1])
    scores.sub_(top.unsqueeze(1)).exp_().mul_(softmax_grad.unsqueeze(1))
    scores.scatter_add_(1, column.unsqueeze(1), torch.where(inside, target_grad, 0).unsqueeze(1))


def _target_columns(targets: Tensor, start: int, width: int) -> tuple[Tensor, Tensor]:
    """Each target's column in a block, clamped into it, and whether it lies inside."""
    column = targets - start
    inside = (column >= 0) & (column < width)
    return column.clamp_(0, width - 1), inside
