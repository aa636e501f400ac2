"""Logits against a tensor-train table: the definition, which builds the table."""

import torch
from torch import Tensor

from muse_kernels.tt_embedding.reference import tt_embedding


def tt_linear(x: Tensor, core1: Tensor, core2: Tensor, theta: Tensor, vocab_size: int) -> Tensor:
    """x @ E^T with the whole table E (vocab_size, d_model) in memory."""
    ids = torch.arange(vocab_size, device=x.device)
    table = tt_embedding(ids, core1, core2, theta, x.shape[-1])
    return x @ table.transpose(0, 1)
