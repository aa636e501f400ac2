"""Proof by running under a cap: what each attempt means, over invented attempts."""

import dataclasses

import pytest

from muse_bench.analysis.verdict import judge
from muse_bench.config import Case
from muse_bench.execution.proof import ATTEMPTS, Attempt, Unproven, find_smallest_budget, prove

MIB = 1 << 20
CASE = Case(model="mine.py:build", config=None, budget_bytes=1_000 * MIB, headroom=0.1)
LIMIT = CASE.limit_bytes


class Gpu:
    """Runs a case that needs `needs_bytes` of the allocator, beside a context, on a device that has `has_bytes`."""

    def __init__(self, needs, context, has=1 << 40, samples=True):
        self.needs, self.context, self.has, self.samples = needs * MIB, context * MIB, has * MIB, samples
        self.caps = []

    def __call__(self, case, context_bytes):
        known = self.context if context_bytes is None else context_bytes
        cap = min(case.limit_bytes - known, self.has)
        self.caps.append(cap)
        ran = self.needs <= min(cap, self.has - self.context)
        reserved = self.needs if ran else min(cap, self.has - self.context)
        return Attempt(
            ran=ran,
            steps=5 if ran else 0,
            cap_bytes=cap,
            context_bytes=known,
            peak_reserved_bytes=reserved,
            outside_bytes=self.context,
            alloc_retries=2,
            stopped_by_cap=not ran and self.has - self.context >= cap,
            device_peak_bytes=reserved + self.context if self.samples else None,
        )


def measured(make_record, **changes):
    """400 MiB allocated, 700 reserved, beside 150 MiB of context."""
    sizes = {"peak_allocated_bytes": 400 * MIB, "cold_peak_allocated_bytes": 380 * MIB}
    sizes |= {"peak_reserved_bytes": 700 * MIB, "context_bytes": 150 * MIB, "device_peak_bytes": 850 * MIB}
    known = {"provenance": "measured", "device_peak_provenance": "sampled", "limit_bytes": LIMIT}
    return make_record(**{**sizes, **known, **changes})


@pytest.mark.parametrize(("needs", "verdict"), [(750, "PASS"), (751, "FAIL")])
def test_the_cap_is_the_limit_less_the_context(make_record, needs, verdict):
    gpu = Gpu(needs, context=150)
    record = judge(prove(measured(make_record), CASE, gpu))
    assert gpu.caps == [750 * MIB]
    assert record.verdict == verdict
    assert record.proof.cap_bytes == 750 * MIB
    assert record.proof.context_bytes == 150 * MIB
    assert (record.proof.ran, record.proof.steps) == ((True, 5) if verdict == "PASS" else (False, 0))
    assert record.proof.alloc_retries == 2


def test_a_run_that_returns_its_cache_passes_where_its_measurement_fails(make_record):
    """Uncapped it reserved 1,900 MiB, and under the cap it ran all the same."""
    record = measured(make_record, peak_reserved_bytes=1_900 * MIB, device_peak_bytes=2_050 * MIB)
    assert judge(record).verdict == "FAIL"
    assert judge(prove(record, CASE, Gpu(700, context=150))).verdict == "PASS"


def test_a_context_that_grew_lowers_the_cap(make_record):
    """With 150 MiB of context the cap was 750 MiB; with the 200 that it really takes, 700 do not do for 720."""
    gpu = Gpu(720, context=200)
    record = prove(measured(make_record), CASE, gpu)
    assert gpu.caps == [750 * MIB, 700 * MIB]
    assert not record.proof.ran
    assert prove(measured(make_record), CASE, Gpu(690, context=200)).proof.ran


def test_what_ends_before_all_is_loaded_is_not_failed_for_a_cap_that_was_too_low(make_record):
    """It ends with 100 MiB of context, so more is left to it; with that it runs, and takes 150 after all."""
    gpu = Gpu(770, context=150)

    def loading(case, context_bytes):
        made = gpu(case, context_bytes)
        return made if made.ran else dataclasses.replace(made, device_peak_bytes=made.peak_reserved_bytes + 100 * MIB)

    record = prove(measured(make_record), CASE, loading)
    assert gpu.caps == [750 * MIB, 800 * MIB]
    assert (record.proof.ran, record.proof.cap_bytes) == (False, 750 * MIB)


@pytest.mark.parametrize("samples", [True, False])
def test_a_proof_never_uses_more_than_the_limit(make_record, samples):
    for needs in range(600, 760, 7):
        for context in (140, 150, 160, 240):
            gpu = Gpu(needs, context, samples=samples)
            record = prove(measured(make_record), CASE, gpu)
            assert record.proof.ran == ((needs + context) * MIB <= LIMIT), (needs, context)


def test_an_unknown_context_is_measured_by_the_run(make_record):
    gpu = Gpu(750, context=150)
    assert prove(measured(make_record, context_bytes=None), CASE, gpu).proof.ran
    assert gpu.caps == [750 * MIB]


def test_a_context_that_keeps_growing_proves_nothing(make_record):
    gpu = Gpu(100, context=150)

    def growing(case, context_bytes):
        gpu.context = case.limit_bytes + len(gpu.caps) * MIB
        return dataclasses.replace(gpu(case, context_bytes), ran=True)

    record = prove(measured(make_record), CASE, growing)
    assert record.proof is None
    assert len(gpu.caps) == ATTEMPTS
    assert "no proof: the context kept changing" in record.notes[-1]


def test_a_device_with_less_to_give_than_the_cap_proves_nothing(make_record):
    """Another process holds the rest: that the case ended says nothing of the budget."""
    record = judge(prove(measured(make_record), CASE, Gpu(750, context=150, has=800)))
    assert record.proof is None
    assert any("other processes" in note for note in record.notes)
    assert record.verdict == "PASS"  # measured within the limit


def test_an_attempt_that_breaks_leaves_the_measurement_as_it_was(make_record):
    def broken(case, context_bytes):
        raise Unproven("timed out after 9 s")

    record = measured(make_record)
    assert prove(record, CASE, broken) == dataclasses.replace(record, notes=("no proof: timed out after 9 s",))
    found = find_smallest_budget(record, CASE, broken)
    assert found == dataclasses.replace(record, notes=("no smallest budget: timed out after 9 s",))


@pytest.mark.parametrize("needs", [401, 416, 500, 600, 699, 700])
def test_the_smallest_budget_is_found_to_16_mib(make_record, needs):
    gpu = Gpu(needs, context=150)
    record = find_smallest_budget(measured(make_record), CASE, gpu)
    assert needs + 150 <= record.smallest_budget_bytes / MIB <= needs + 150 + 16
    assert all(400 * MIB < cap < 700 * MIB for cap in gpu.caps)
    assert len(gpu.caps) <= 5


def test_the_first_step_counts_for_what_is_too_little(make_record):
    gpu = Gpu(660, context=150)
    find_smallest_budget(measured(make_record, cold_peak_allocated_bytes=640 * MIB), CASE, gpu)
    assert min(gpu.caps) > 640 * MIB


@pytest.mark.parametrize("changes", [{"status": "oom"}, {"context_bytes": None}, {"peak_reserved_bytes": None}])
def test_what_did_not_run_has_no_smallest_budget(make_record, changes):
    gpu = Gpu(500, context=150)
    record = find_smallest_budget(measured(make_record, **changes), CASE, gpu)
    assert record.smallest_budget_bytes is None
    assert record.notes[-1].startswith("no smallest budget: ")
    assert gpu.caps == []
