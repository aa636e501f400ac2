"""Predictions against the measurements in reports/: the error of each is bounded here.

Workspaces are left out of both sides: they follow the release of PyTorch, which may be another one here.
"""

from pathlib import Path

import pytest

from muse_bench.config import Case, ModelConfig
from muse_bench.predict.allocator import AllocatorConfig
from muse_bench.predict.gpus import find_gpu
from muse_bench.predict.trace import trace_case
from muse_bench.record import Record, read_run_file
from muse_bench.timeline import profile

REPORTS = Path(__file__).parents[3] / "reports" / "h200"
LARGEST_ERROR = 0.01


def measured() -> list[Record]:
    names = ("ref-train", "ref-forward-backward", "ref-inference")
    return [record for name in names for record in read_run_file(REPORTS / f"{name}.json").records]


@pytest.mark.parametrize("record", measured(), ids=lambda record: f"{record.model}-{record.mode}")
def test_the_peak_is_within_one_per_cent(record: Record) -> None:
    case = Case(
        model=record.model,
        config=ModelConfig(**record.config),
        mode=record.mode,  # type: ignore[arg-type]
        dtype=record.dtype,  # type: ignore[arg-type]
        batch=record.batch,
        seq=record.seq,
        vocab_size=record.config["vocab_size"],
        optimizer=record.optimizer or "none",  # type: ignore[arg-type]
        micro_batch=record.micro_batch,
    )
    trace, work = trace_case(case, find_gpu("h200"))
    found = profile(trace, first_steady_step=case.first_steady_step, config=AllocatorConfig())
    assert record.ledger is not None
    assert record.peak_allocated_bytes is not None
    without = record.peak_allocated_bytes - record.ledger.workspace
    predicted = found.steady_peak_allocated_bytes - found.ledger.workspace
    assert work.parameters == record.parameters
    assert predicted == pytest.approx(without, rel=LARGEST_ERROR)
