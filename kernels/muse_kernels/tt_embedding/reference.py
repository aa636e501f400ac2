"""Rows of a tensor-train table: the definition."""

import torch
from torch import Tensor


def tt_embedding(ids: Tensor, core1: Tensor, core2: Tensor, theta: Tensor, d_model: int) -> Tensor:
    """Rows of the table, one for each id."""
    v2 = core2.shape[0]
    left = core1[ids // v2]  # (*ids, rank, d1)
    right = theta.cos().unsqueeze(-1) * core2[ids % v2]  # (*ids, rank, d2)
    return torch.einsum("...ra,...rb->...ab", left, right).flatten(-2)[..., :d_model]
