"""On a real GPU: the cap holds, what is proven agrees with what was measured, and a bisection ends in between."""

import pytest

from muse_bench.analysis.verdict import judge
from muse_bench.config import Case, Sizes
from muse_bench.execution.runner import Runner
from muse_bench.models.presets import find_preset
from muse_bench.record import Record

pytestmark = pytest.mark.gpu
MIB = 1 << 20
SIZES = Sizes(vocab_size=10_000, d_model=512, n_layers=6, n_heads=8, seq_len=512)


def case_of(limit_bytes: int) -> Case:
    preset = find_preset("baseline")
    return Case(
        model="baseline",
        config=preset.configure(SIZES),
        dtype=preset.dtype,
        batch=8,
        seq=512,
        vocab_size=10_000,
        budget_bytes=limit_bytes,
        headroom=0.0,
    )


def run(case: Case, **options: bool) -> Record:
    with Runner("cuda", explain=False, **options) as runner:
        (record,) = runner.run([case])
    return judge(record)


@pytest.fixture(scope="module")
def free() -> Record:
    """The case with no cap to speak of."""
    record = run(case_of(64 << 30))
    assert record.status == "ok"
    assert record.context_bytes is not None
    return record


def test_what_was_measured_to_fit_is_proven_to(free: Record) -> None:
    assert free.device_peak_bytes is not None
    record = run(case_of(free.device_peak_bytes + 32 * MIB), proves=True)
    assert record.proof is not None, record.notes
    assert (record.proof.ran, record.proof.steps, record.verdict) == (True, 5, "PASS")
    assert record.proof.alloc_retries == 0


def test_a_limit_below_what_is_allocated_is_proven_too_small(free: Record) -> None:
    assert free.peak_allocated_bytes is not None
    assert free.context_bytes is not None
    record = run(case_of(free.peak_allocated_bytes + free.context_bytes - 64 * MIB), proves=True)
    assert record.proof is not None, record.notes
    assert (record.proof.ran, record.verdict) == (False, "FAIL")


def test_the_smallest_budget_runs_and_less_does_not(free: Record) -> None:
    assert free.peak_allocated_bytes is not None
    record = run(case_of(64 << 30), bisects=True)
    assert record.smallest_budget_bytes is not None, record.notes
    assert record.context_bytes is not None
    assert record.peak_reserved_bytes is not None
    cap = record.smallest_budget_bytes - record.context_bytes
    assert free.peak_allocated_bytes <= cap <= record.peak_reserved_bytes
    again = run(case_of(record.smallest_budget_bytes + 2 * MIB), proves=True)
    assert again.proof is not None, again.notes
    assert again.proof.ran


def test_the_simulated_smallest_budget_is_near_the_one_that_runs(free: Record) -> None:
    """The allocator's simulator returns its cache as the allocator does: within 5 % or two steps of the bisection."""
    measured = run(case_of(64 << 30), bisects=True)
    with Runner("predict", gpu="auto", bisects=True) as runner:
        (predicted,) = runner.run([case_of(64 << 30)])
    caps = []
    for record in (measured, predicted):
        assert record.smallest_budget_bytes is not None, record.notes
        assert record.context_bytes is not None
        caps.append(record.smallest_budget_bytes - record.context_bytes)
    assert caps[1] == pytest.approx(caps[0], rel=0.05, abs=32 * MIB)
