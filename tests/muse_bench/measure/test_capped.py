"""A run under a cap, on an invented device: when the cap is set, how large it is, and what is said of the end."""

import types

import pytest

from muse_bench.config import Case
from muse_bench.measure import capped

MIB = 1 << 20
TOTAL = 24 << 30
CASE = Case(
    model="mine.py:build", config=None, budget_bytes=1_000 * MIB, headroom=0.1, warmup_steps=2, measured_steps=3
)


class OutOfMemory(Exception):  # noqa: N818
    pass


class Cuda:
    """A device that holds 300 MiB of context, and more as other processes take it."""

    OutOfMemoryError = OutOfMemory

    def __init__(self, needs, others=0):
        self.needs, self.others, self.reserved, self.fraction, self.log = needs * MIB, others * MIB, 0, 1.0, []

    def init(self):
        self.log.append("init")

    def current_device(self):
        return 0

    def synchronize(self):
        pass

    def mem_get_info(self, device):
        return TOTAL - 300 * MIB - self.others - self.reserved, TOTAL

    def memory_reserved(self, device=None):
        return self.reserved

    def max_memory_reserved(self):
        return self.reserved

    def memory_stats(self):
        return {"num_alloc_retries": 4}

    def set_per_process_memory_fraction(self, fraction, device):
        self.fraction = fraction
        self.log.append("cap")

    def step(self):
        """The second step needs all of it."""
        self.log.append("step")
        if self.log.count("step") == 2:
            allowed = min(int(self.fraction * TOTAL), TOTAL - 300 * MIB - self.others)
            self.reserved = min(self.needs, allowed)
            if self.needs > allowed:
                raise OutOfMemory


@pytest.fixture
def run(monkeypatch):
    def call(cuda, case=CASE, context=None):
        def build(case, device):
            cuda.log.append("build")
            return types.SimpleNamespace(step=cuda.step)

        fake = types.SimpleNamespace(cuda=cuda, device=lambda *_: "cuda:0")
        monkeypatch.setattr(capped, "torch", fake)
        monkeypatch.setattr(capped, "build_workload", build)
        return capped.run_capped(case, context, lambda _: None)

    return call


def test_the_cap_stands_before_anything_is_built(run):
    cuda = Cuda(needs=500)
    found = run(cuda, context=200 * MIB)
    assert cuda.log == ["init", "cap", "build", *["step"] * 5]
    assert (found.ran, found.steps, found.cap_bytes) == (True, 5, 700 * MIB)
    assert cuda.fraction == pytest.approx(700 * MIB / TOTAL)
    assert (found.peak_reserved_bytes, found.outside_bytes, found.alloc_retries) == (500 * MIB, 300 * MIB, 4)


def test_a_context_that_nobody_knows_is_what_the_device_holds_before_anything_is_built(run):
    assert run(Cuda(needs=500)).context_bytes == 300 * MIB


def test_running_out_under_the_cap_says_after_how_many_steps(run):
    found = run(Cuda(needs=601))
    assert (found.ran, found.steps, found.stopped_by_cap) == (False, 1, True)


def test_a_device_that_others_fill_is_not_the_cap(run):
    found = run(Cuda(needs=500, others=24 * 1024 - 300 - 400), context=300 * MIB)
    assert (found.ran, found.stopped_by_cap) == (False, False)


def test_a_limit_below_the_context_leaves_nothing(run):
    found = run(Cuda(needs=1), context=5_000 * MIB)
    assert (found.cap_bytes, found.ran, found.stopped_by_cap) == (0, False, True)


def test_a_limit_above_the_device_is_no_cap(run):
    found = run(Cuda(needs=500), Case(model="mine.py:build", config=None, budget_bytes=1 << 40))
    assert found.cap_bytes == TOTAL


def test_the_reports_protocol_is_one_step(run):
    cuda = Cuda(needs=500)
    run(cuda, Case(model="mine.py:build", config=None, mode="forward-backward"))
    assert cuda.log.count("step") == 1
