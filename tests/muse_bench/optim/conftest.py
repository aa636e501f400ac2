"""A small language with a grammar, and what a model loses on it while an optimizer trains it."""

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from muse_bench.config import ModelConfig
from muse_bench.models.language_model import LanguageModel

VOCAB_SIZE, BATCH, SEQ, STEPS = 64, 8, 32, 200
Makes = Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]


def texts() -> Iterator[Tensor]:
    """Random walks (batch, seq + 1) over a vocabulary in which each token has a few likely successors."""
    generator = torch.Generator().manual_seed(1)
    chances = torch.randn(VOCAB_SIZE, VOCAB_SIZE, generator=generator).mul(3).softmax(-1)
    while True:
        tokens = [torch.randint(VOCAB_SIZE, (BATCH,), generator=generator)]
        for _ in range(SEQ):
            tokens.append(torch.multinomial(chances[tokens[-1]], 1, generator=generator).squeeze(1))
        yield torch.stack(tokens, 1)


def losses(weight_format: str, d_model: int, make: Makes) -> list[float]:
    """Of a model of four layers with a vocabulary of 64, step by step."""
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB_SIZE, "d_model": d_model, "n_layers": 4, "n_heads": 2, "max_seq_len": SEQ}
    model = LanguageModel(ModelConfig(**sizes, positions="learned", weight_format=weight_format))
    optimizer = make(model.parameters())
    found = []
    for ids in itertools.islice(texts(), STEPS):
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


@pytest.fixture
def taken() -> Callable[[str, int, Makes], float]:
    """By how much the loss falls from the first step to the mean of the last twenty."""

    def fall(weight_format: str, d_model: int, make: Makes) -> float:
        found = losses(weight_format, d_model, make)
        return found[0] - sum(found[-20:]) / 20

    return fall
