"""Contents beside `meta` tensors: what models ask before they decide what to do."""

import pytest
import torch
from torch import Tensor, nn

from muse_bench.config import Case
from muse_bench.errors import UntraceableModel
from muse_bench.predict import values
from muse_bench.predict.gpus import find_gpu
from muse_bench.predict.trace import MetaObserver


@pytest.fixture
def observer() -> MetaObserver:
    return MetaObserver(find_gpu("h200"), {}, (2, 11))


def test_positions_and_masks_made_of_constants_can_be_asked(observer: MetaObserver) -> None:
    with observer, torch.device("meta"):
        positions = torch.arange(6).unsqueeze(0)
        assert bool((positions.diff(dim=1) == 1).all())
        mask = torch.ones(2, 4)
        mask[:, 3] = 0
        assert int(mask.cumsum(1).long()[:, -1].max()) == 3
        assert positions.nonzero().shape == (5, 2)


def test_a_view_follows_what_is_written_to_its_base(observer: MetaObserver) -> None:
    with observer, torch.device("meta"):
        counts = torch.zeros(4, dtype=torch.int64)
        part = counts[1:3]
        counts.add_(5)
        assert int(part.sum()) == 10


def test_parts_of_a_batch_and_lists_of_indices_keep_their_content(observer: MetaObserver) -> None:
    """Models look for padding in the first and last column of the ids, after the batch was split."""
    with observer, values.KeepIndices(), torch.device("meta"):
        (first, _) = torch.arange(12).view(4, 3).split(2)
        assert 5 in first[:, [-1, 0]]
        assert 4 not in first[:, [-1, 0]]


def test_activations_have_no_content(observer: MetaObserver) -> None:
    """A decision that depends on activations must not be guessed."""
    with observer, torch.device("meta"):
        scores = torch.randn(8)
        with pytest.raises(UntraceableModel, match="nonzero"):
            (scores > 0).nonzero()


def test_an_unknown_value_written_to_a_known_tensor_makes_it_unknown(observer: MetaObserver) -> None:
    with observer, torch.device("meta"):
        picked = torch.zeros(8, dtype=torch.int64)
        picked.copy_((torch.randn(8) > 0).long())
        with pytest.raises(UntraceableModel):
            bool(picked.any())


def test_a_loss_can_be_logged(observer: MetaObserver) -> None:
    """`.item()` of a float is common in training loops, and no memory depends on it."""
    with observer, torch.device("meta"):
        assert torch.randn(3).sum().item() == 1.0


class Routed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(11, 4), nn.Linear(4, 11)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embedding(ids)
        (hidden.sum(-1) > 0).nonzero()
        return self.head(hidden)


def test_the_message_names_the_operation_and_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from muse_bench import workload
    from muse_bench.predict.trace import trace_case

    monkeypatch.setattr(workload, "build_external", lambda reference: Routed())
    case = Case(model="x:y", config=None, seq=4, vocab_size=11)
    with pytest.raises(UntraceableModel, match=r"aten\.nonzero\.default at .*test_values\.py:\d+ in forward"):
        trace_case(case, find_gpu("h200"))
