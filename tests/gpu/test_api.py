"""On a real GPU: what the API measures in this process is what a process of its own measures, and ledgers close."""

import pytest
import torch
from torch import nn

import muse_bench

pytestmark = pytest.mark.gpu
MIB = 1 << 20


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(1000, 512)
        self.blocks = nn.ModuleList([nn.Linear(512, 512) for _ in range(4)])
        self.head = nn.Linear(512, 1000)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids)
        for block in self.blocks:
            x = block(x).relu()
        out: torch.Tensor = self.head(x)
        return out


def set_up(device: torch.device) -> muse_bench.Step:
    model = Model().to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.randint(1000, (4, 128), device=device)

    def step() -> None:
        model(ids).logsumexp(-1).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return muse_bench.Step(step, model, optimizer, [ids])


@pytest.mark.parametrize("given", [Model, Model(), set_up], ids=["function", "model", "setup"])
def test_what_is_measured_here_does_not_count_what_was_there(given: object) -> None:
    held = torch.empty(64 * MIB, dtype=torch.uint8, device="cuda")
    record = muse_bench.measure(given, **({} if given is set_up else {"vocab": 1000, "seq": 128, "batch": 4}))
    del held
    assert record.provenance == "measured"
    assert record.ledger is not None
    assert record.peak_allocated_bytes == record.ledger.total
    assert record.peak_allocated_bytes < 128 * MIB
    assert record.ledger.parameters >= (record.parameters or 0) * 4
    assert record.ledger.optimizer_state >= (record.parameters or 0) * 8
    assert abs(record.ledger.unattributed) <= record.peak_allocated_bytes // 100


def test_a_loop_that_is_watched_has_the_peak_and_the_ledger_of_its_model() -> None:
    step = set_up(torch.device("cuda"))
    step.step()  # the optimizer's state is there before the block, and has its line all the same
    with muse_bench.watch(model=step.model, optimizer=step.optimizer, inputs=step.inputs) as seen:
        for _ in range(3):
            step.step()
    record = seen.record
    assert record.peak_allocated_bytes == torch.cuda.max_memory_allocated()
    assert record.ledger is not None
    assert record.ledger.total == record.peak_allocated_bytes
    assert record.ledger.parameters >= (record.parameters or 0) * 4
    assert record.ledger.optimizer_state >= (record.parameters or 0) * 8
    assert record.ledger.inputs >= 4 * 128 * 8


def test_a_loop_without_a_model_has_peaks_alone() -> None:
    with muse_bench.watch() as seen:
        torch.empty(32 * MIB, dtype=torch.uint8, device="cuda")
    assert (seen.record.peak_allocated_bytes or 0) >= 32 * MIB
    assert seen.record.ledger is None


def test_samples_of_a_shape_are_measured() -> None:
    """Classes brought into range by a copy, or samples in another dtype than the weights, fail on the device alone."""
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    record = muse_bench.measure(model, input_shape=(3, 64, 64), batch=8, dtype="bf16")
    assert record.ledger is not None
    assert record.ledger.inputs == 8 * 3 * 64 * 64 * 2 + 512
    assert record.peak_allocated_bytes == record.ledger.total
    assert record.tokens_per_second is None
