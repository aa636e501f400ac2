"""Other predictors get a fair hearing: what they say of models whose memory can be worked out by hand."""

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from muse_bench.calibration import peers
from muse_bench.config import Case, Sizes
from muse_bench.models.presets import find_preset
from muse_bench.workload import build_workload

FACTORIES = """
import torch
from torch import nn

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(1000, 64)
        self.head = nn.Linear(64, 1000, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids):
        return self.head(self.table(ids))

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(1000, 64)
        self.head = nn.Linear(64, 1000, bias=False)

    def forward(self, ids):
        return self.head(self.table(ids))

class Counting(Tied):
    def forward(self, ids):
        return super().forward(ids[: int(ids.sum())])

def fails():
    raise RuntimeError("no luck")
"""
WEIGHTS = 1000 * 64 * 4  # of one of the two matrices


@pytest.fixture(scope="module")
def factories(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "factories.py"
    path.write_text(FACTORIES)
    return path


@pytest.fixture
def tied(factories):
    def make(factory="Tied", **changes):
        return Case(model=f"{factories}:{factory}", config=None, batch=1, seq=1, vocab_size=1000, **changes)

    return make


@pytest.fixture
def estimate(monkeypatch):
    """accelerate's module of that name, in so far as it is asked: sizes by float32, training as four times that."""
    module = ModuleType("accelerate.commands.estimate")
    module.calculate_maximum_sizes = lambda model: (
        sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()),
        None,
    )
    module.estimate_training_usage = lambda total, dtype: {
        "step": total * (4 if dtype == "float32" else 2),
        "model": total,
    }
    for name in ("accelerate", "accelerate.commands"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "accelerate.commands.estimate", module)


def ask(case, name):
    return peers.ask_peers(case, lambda _: None).peers[name]


@pytest.mark.parametrize(("optimizer", "copies"), [("sgd", 2), ("adamw-fused", 4), ("adamw", 5)])
def test_mem_tracker_sees_the_optimizers_state_and_takes_its_path_on_cuda(tied, optimizer, copies):
    """Weights, gradients, AdamW's two states and, where it goes over all parameters at once, their square roots.

    On the CPU's own path the roots of one parameter alone would be alive.
    """
    seen = ask(tied("Two", optimizer=optimizer), "mem-tracker")
    assert copies * 2 * WEIGHTS <= seen < (copies + 0.1) * 2 * WEIGHTS


def test_mem_tracker_sees_a_tied_weight_once(tied):
    assert WEIGHTS <= ask(tied(mode="inference"), "mem-tracker") < 1.1 * WEIGHTS


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("ultimate", {"micro_batch": 1}),  # a model that a step calls twice, with a check of its ids
        ("baseline", {"mode": "decode", "new_tokens": 3}),
        ("tuned", {"optimizer": "adafactor"}),  # an optimizer that asks for numbers
        ("baseline", {"autocast": "bf16"}),
    ],
)
def test_mem_tracker_is_helped_over_what_it_refuses_by_itself(preset, changes):
    sizes = Sizes(vocab_size=61, d_model=32, n_layers=2, n_heads=4, seq_len=16)
    config = find_preset(preset).configure(sizes)
    case = Case(model=preset, config=config, batch=2, seq=12, vocab_size=61, **changes)
    answers = peers.ask_peers(case, lambda _: None)
    assert answers.peers["mem-tracker"] > 0, answers.notes


def test_a_predictor_that_fails_gives_no_answer_and_its_reason(tied, estimate):
    answers = peers.ask_peers(tied("Counting"), lambda _: None)
    assert answers.peers["mem-tracker"] is None
    assert answers.peers["accelerate"] > 0
    (note,) = answers.notes
    assert note.startswith("mem-tracker: no answer: DataDependentOutputException")


def test_nothing_stays_behind_that_the_next_case_would_meet(tied):
    """A tracker that failed must not leave its hooks on every module."""
    first = ask(tied(), "mem-tracker")
    peers.ask_peers(tied("Counting"), lambda _: None)
    assert ask(tied(), "mem-tracker") == first
    assert nn.Linear(2, 2)(torch.ones(2)).requires_grad


def test_accelerate_begins_from_float32_whatever_the_dtype(tied, estimate):
    assert ask(tied(), "accelerate") == 4 * WEIGHTS
    assert ask(tied(dtype="bf16"), "accelerate") == 2 * WEIGHTS


def test_accelerate_loads_weights_in_their_own_dtype(tied, estimate):
    assert ask(tied(mode="inference", dtype="fp16"), "accelerate") == WEIGHTS // 2


@pytest.mark.parametrize(
    ("changes", "said"), [({"optimizer": "sgd"}, "with Adam, not sgd"), ({"mode": "forward-backward"}, "not forward")]
)
def test_accelerate_is_not_held_to_what_it_does_not_estimate(tied, estimate, changes, said):
    answers = peers.ask_peers(tied(**changes), lambda _: None)
    assert answers.peers["accelerate"] is None
    assert said in answers.notes[0]


def test_without_accelerate_there_is_a_reason(tied, monkeypatch):
    for name in ("accelerate", "accelerate.commands.estimate"):  # which may be there, and imported, already
        monkeypatch.setitem(sys.modules, name, None)
    work = build_workload(tied(), torch.device("cpu"))
    with pytest.raises(peers.NoAnswerError, match="not installed"):
        peers.accelerate_bytes(work)
