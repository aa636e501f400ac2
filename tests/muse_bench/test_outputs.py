"""The losses on what models return, on real numbers."""

import types

import pytest
import torch
from torch import nn

from muse_bench.errors import UsageError
from muse_bench.outputs import class_loss, output_of, token_loss


def test_any_numbers_become_classes_in_place_and_stay_them():
    """A target outside the classes is an assertion on the device; targets drawn anew would be another tensor."""
    model, x, targets = nn.Linear(4, 3), torch.randn(5, 4), torch.tensor([0, 4, 2**31 - 1, 5, 7])
    first = class_loss(model, x, targets)
    assert targets.tolist() == [0, 1, (2**31 - 1) % 3, 2, 1]
    torch.testing.assert_close(first, nn.functional.cross_entropy(model(x), targets))
    assert torch.equal(class_loss(model, x, targets), first)


def test_scores_in_half_precision_have_their_loss_in_float32():
    model, x = nn.Linear(4, 3).bfloat16(), torch.randn(5, 4, dtype=torch.bfloat16)
    assert class_loss(model, x, torch.zeros(5, dtype=torch.int64)).dtype == torch.float32


def test_the_output_is_the_logits_before_the_hidden_states():
    logits, hidden = torch.zeros(1), torch.ones(1)
    assert output_of(types.SimpleNamespace(logits=logits, last_hidden_state=hidden)) is logits
    assert output_of(types.SimpleNamespace(last_hidden_state=hidden)) is hidden
    assert output_of(hidden) is hidden


def test_a_classifier_of_sequences_is_no_model_of_tokens():
    """(batch, classes) flattened to (batch, ) targets of (batch, seq) is an error deep inside torch."""

    class Classifier(nn.Module):
        def forward(self, ids):
            return ids.float().mean(1, keepdim=True).expand(-1, 3)

    ids = torch.zeros(2, 4, dtype=torch.int64)
    with pytest.raises(UsageError, match=r"Classifier returns \(2, 3\), .* that of \(batch, seq, vocab\)"):
        token_loss(Classifier(), ids, ids)
