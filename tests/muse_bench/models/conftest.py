"""A batch of the small models' tokens."""

import pytest
import torch
from torch import Tensor

VOCAB_SIZE, BATCH, SEQ = 61, 2, 13


@pytest.fixture
def ids() -> Tensor:
    """(2, 13), from a vocabulary of 61."""
    return torch.randint(VOCAB_SIZE, (BATCH, SEQ), generator=torch.Generator().manual_seed(1))
