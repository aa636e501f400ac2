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
        """(2, tokens): gradients of the total with respect to each token's softmax, unnormalised, and target logit.

        A token's loss has the gradient softmax * (1 + 2 z logsumexp) - onehot; 0 where ignored.
        """
        valid = targets != self.ignore_index
        share = torch.where(valid, grad / valid.sum() if self.reduction == "mean" else grad, 0)
        top, total = statistics
        drift = 1 + 2 * self.z_loss * (top + total.log()) if self.z_loss != 0 else 1
        return torch.stack([share * drift / total, -share])


def empty_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Room for the statistics (2, tokens) and the target logit (tokens,) of each row of x."""
    wide = accumulation_dtype(x.dtype)
    statistics = torch.empty(2, x.shape[0], dtype=wide, device=x.device)
    return statistics, torch.empty(x.shape[0], dtype=wide, device=x.device)


def reduce_(scores: Tensor, targets: Tensor, statistics: Tensor, picked: Tensor) -> None:
    """Writes each row's largest logit, sum of exp(logit - largest) and target logit; scores are overwritten.

    Args:
        scores: (rows, vocab_size), whole rows of logits.
        statistics: (2, rows), written.
        picked: (rows,), written.
    """
    torch.gather(scores, 1, targets.clamp(0, scores.shape[1] - 1).unsqueeze(1), out=picked.unsqueeze(1))
    torch.amax(scores, 1, out=statistics[0])
    torch.sum(scores.sub_(statistics[0].unsqueeze(1)).exp_(), 1, out=statistics[1])


def logits_gradient_(scores: Tensor, start: int, targets: Tensor, top: Tensor, token_gradients: Tensor) -> None:
    """Turns the logits of the columns from start into gradients of the loss, in place."""
    softmax_grad, target_grad = token_gradients
    scores.sub_(top.unsqueeze(1)).exp_().mul_(softmax_grad.unsqueeze(1))
    column = targets - start
    inside = (column >= 0) & (column < scores.shape[1])
    onehot_grad = torch.where(inside, target_grad, 0)
    scores.scatter_add_(1, column.clamp_(0, scores.shape[1] - 1).unsqueeze(1), onehot_grad.unsqueeze(1))
