"""On a real GPU: the loop of the earlier reports' appendix, in half precision, over the models of their names."""

import pytest
import torch
from torch import nn

from muse_bench.models.compatible import (
    create_extreme_memory_optimized_model,
    create_memory_optimized_model,
    create_phase1_model,
    create_ultimate_memory_optimized_model,
    create_ultra_memory_optimized_model,
)

pytestmark = pytest.mark.gpu
VOCAB, BATCH, SEQ, STEPS = 50_000, 2, 128, 10
FACTORIES = [
    create_phase1_model,
    create_memory_optimized_model,
    create_ultra_memory_optimized_model,
    create_extreme_memory_optimized_model,
    create_ultimate_memory_optimized_model,
]


@pytest.mark.parametrize("factory", FACTORIES)
def test_the_reports_loop_trains_in_half_and_their_inference_runs(factory) -> None:
    """The eps is one that half can hold: torch's own is 0 there, and the second loss NaN, whatever the model."""
    torch.manual_seed(0)
    model = factory(vocab_size=VOCAB, d_model=1024, n_layers=12)
    model = model.half().cuda()
    assert {(one.device.type, one.dtype) for one in model.parameters()} == {("cuda", torch.float16)}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, eps=1e-4)
    tokens = torch.randint(VOCAB, (BATCH, SEQ + 1)).cuda()
    dataloader = [{"input_ids": tokens[:, :-1], "labels": tokens[:, 1:]}] * STEPS
    criterion, losses = nn.CrossEntropyLoss(), []
    for batch in dataloader:
        output = model(batch["input_ids"])
        loss = criterion(output.view(-1, VOCAB), batch["labels"].reshape(-1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    _assert_infers(model, tokens)


def test_int8_matrices_move_and_infer_in_half() -> None:
    model = create_extreme_memory_optimized_model(VOCAB, 1024, 12, use_quantization=True).half().cuda()
    _assert_infers(model, torch.randint(VOCAB, (BATCH, SEQ)).cuda())


def _assert_infers(model: nn.Module, ids: torch.Tensor) -> None:
    model.eval()
    with torch.no_grad():
        output = model(ids)
    assert output.shape == (*ids.shape, VOCAB)
    assert output.dtype == torch.float16
    assert output.isfinite().all()
