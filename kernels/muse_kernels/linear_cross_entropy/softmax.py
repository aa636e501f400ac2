"""Cross-entropy of a block of logits, and its gradient formed in place in the block; shared by both heads."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """How the losses of tokens make one number: mean or sum over the tokens that are not ignored."""

    ignore_index: int
    reduction: str
    z_loss: float

    def total(self, targets: Tensor, normaliser: Tensor, picked: Tensor) -> Tensor:
        """The loss, from each token's logsumexp and its target's logit; nan for the mean of no tokens."""
        valid = targets != self.ignore_index
        losses = normaliser - picked
        if self.z_loss != 0:
            losses.addcmul_(normaliser, normaliser, value=self.z_loss)
        total = losses.masked_fill_(~valid, 0).sum()
        return total / valid.sum() if self.reduction == "mean" else total

    def token_gradients(self, grad: Tensor, targets: Tensor) -> Tensor:
        """Gradient of the total with respect to each token's loss (tokens,); 0 where ignored."""
        valid = targets != self.ignore_index
        share = grad / valid.sum() if self.reduction == "mean" else grad
        return torch.where(valid, share, 0)


def logsumexp_(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's logsumexp and target logit, from logits (rows, vocab_size), which are overwritten."""
    picked = scores.gather(1, targets.clamp(0, scores.shape[1] - 1).unsqueeze(1)).squeeze(1)
    top = scores.amax(1)
    total = scores.sub_(top.unsqueeze(1)).exp_().sum(1)
    return total.log_().add_(top), picked


def logits_gradient_(
    scores: Tensor, start: int, targets: Tensor, normaliser: Tensor, token_grad: Tensor, z_loss: float
) -> None:
    """Turns the logits of some columns into gradients: token_grad * (softmax * (1 + 2 z lse) - onehot)."""
    softmax_grad = token_grad * (1 + 2 * z_loss * normaliser) if z_loss != 0 else token_grad
    scores.sub_(normaliser.unsqueeze(1)).exp_().mul_(softmax_grad.unsqueeze(1))
    column = targets - start
    inside = (column >= 0) & (column < scores.shape[1])
    onehot_grad = torch.where(inside, -token_grad, 0)
    scores.scatter_add_(1, column.clamp_(0, scores.shape[1] - 1).unsqueeze(1), onehot_grad.unsqueeze(1))
