"""A record that tests of the analysis and of the reports change to their needs, and one thread for tiny models."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from muse_bench.ledger import Ledger
from muse_bench.record import Record

MIB = 1 << 20
LEDGER = Ledger(
    parameters=100 * MIB,
    gradients=100 * MIB,
    optimizer_state=200 * MIB,
    activations_saved=300 * MIB,
    activations_temporary=64 * MIB,
    inputs=8192,
    workspace=8 * MIB + (1 << 17),
)
RECORD = Record(
    model="baseline",
    config={"vocab_size": 50_000, "d_model": 1_024, "n_layers": 12, "mixer": "attention", "mixer_rank": None},
    mode="train",
    dtype="fp32",
    batch=1,
    seq=2_048,
    status="ok",
    provenance="predicted",
    gpu="NVIDIA GeForce RTX 4060",
    optimizer="adamw",
    parameters=26_214_400,
    peak_allocated_bytes=LEDGER.total,
    cold_peak_allocated_bytes=LEDGER.total - 200 * MIB,
    peak_reserved_bytes=800 * MIB,
    context_bytes=289 * MIB,
    device_peak_bytes=1_089 * MIB,
    device_peak_provenance="predicted",
    ledger=LEDGER,
    budget_bytes=8192 * MIB,
    limit_bytes=int(8192 * MIB * 0.9),
)


@pytest.fixture
def make_record() -> Callable[..., Record]:
    def make(model: str = "baseline", **changes: Any) -> Record:
        return dataclasses.replace(RECORD, model=model, **changes)

    return make


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny products are faster so, and always summed in the same order."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
