"""Tiny cases that are shared out, models that say how they are cut, and what of a prediction tests look at."""

from collections.abc import Callable
from typing import Any

import pytest

from muse_bench.config import Case, Sizes
from muse_bench.execution.prediction import predicted_of_ranks, predicted_values
from muse_bench.models.presets import PRESETS

FACTORIES = """
from torch import nn

class Planned(nn.Module):
    tp_plan = {"up": "colwise", "down": "rowwise"}

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(97, 32), nn.Linear(32, 97)
        self.up, self.down = nn.Linear(32, 256), nn.Linear(256, 32)

    def forward(self, ids):
        return self.head(self.down(self.up(self.table(ids)).relu()))

class Unplanned(Planned):
    tp_plan = None

class Strange(Planned):
    tp_plan = {"up": "colwise", "down": "sideways"}

class Broken(Planned):
    def forward(self, ids):
        super().forward(ids)
        raise ValueError("in the middle of a step")
"""


@pytest.fixture(scope="session")
def factories(tmp_path_factory):
    path = tmp_path_factory.mktemp("sharded") / "factories.py"
    path.write_text(FACTORIES)
    return path


@pytest.fixture(scope="session")
def make_case(factories) -> Callable[..., Case]:
    """A case of two blocks and 97 words, which neither 2 nor 4 ranks divide; of a factory if one is named."""

    def make(factory: str | None = None, vocab: int = 97, **changes: Any) -> Case:
        sizes = Sizes(vocab_size=vocab, d_model=32, n_layers=2, n_heads=4, seq_len=16)
        config = None if factory else PRESETS["baseline"].configure(sizes)
        model = f"{factories}:{factory}" if factory else "baseline"
        return Case(model=model, config=config, batch=2, seq=16, vocab_size=vocab, gpu="h200", **changes)

    return make


@pytest.fixture(scope="session")
def predict() -> Callable[[Case], dict[str, Any]]:
    """The figures of a case; of a sharded one by rank under 'of_ranks', too."""

    def values(case: Case) -> dict[str, Any]:
        if case.sharding is not None:
            return predicted_of_ranks(case, lambda _: None)
        return predicted_values(case, lambda _: None)[0]

    return values
