"""The least memory that does: the bisection, and the traces that it replays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muse_bench.predict.allocator import AllocatorConfig
from muse_bench.predict.capacity import STEP_BYTES, runs_within, smallest_capacity_bytes, smallest_that_runs
from muse_bench.timeline import Event, Op, Trace, profile

MIB = 1 << 20
CONFIG = AllocatorConfig()


def trace_of(*events: tuple[int, int]) -> Trace:
    """Allocations as (key, MiB), and frees as (key, 0); the first operation builds, the rest is one step."""
    trace = Trace(ops=[Op("build", "", "build"), Op("step", "", "forward")], steps=[1])
    for index, (key, size) in enumerate(events):
        trace.events.append(Event(size > 0, key, size * MIB, min(index, 1)))
    return trace


@given(st.integers(0, 5_000), st.integers(1, 5_000), st.integers(1, 64))
def test_the_bisection_ends_within_a_step_of_the_truth(low, extent, step):
    high = low + extent
    for truth in {low + 1, (low + high) // 2 + 1, high}:
        tried = []

        def runs(size, truth=truth, tried=tried):
            tried.append(size)
            return size >= truth

        found = smallest_that_runs(runs, low, high, step)
        assert truth <= found <= max(truth + step - 1, truth)
        assert len(tried) <= extent.bit_length()


def test_what_only_the_cache_holds_is_not_needed():
    """Blocks of 100 and of 300 MiB, one after the other, beside 20: 420 MiB are reserved, and 320 do."""
    trace = trace_of((0, 20), (1, 100), (1, 0), (2, 300), (2, 0))
    assert profile(trace, first_steady_step=0, config=CONFIG).peak_reserved_bytes == 420 * MIB
    found = smallest_capacity_bytes(trace, CONFIG)
    assert 320 * MIB <= found <= 320 * MIB + STEP_BYTES
    assert runs_within(trace, CONFIG, found)
    assert not runs_within(trace, CONFIG, 320 * MIB - 1)


def test_what_building_takes_counts():
    """A checkpoint of 500 MiB that is read and freed before the first step of 100."""
    trace = Trace(ops=[Op("build", "", "build"), Op("step", "", "forward")], steps=[1])
    trace.events = [Event(True, 0, 500 * MIB, 0), Event(False, 0, 0, 0), Event(True, 1, 100 * MIB, 1)]
    assert smallest_capacity_bytes(trace, CONFIG) >= 500 * MIB


def test_a_cache_in_use_cannot_be_returned():
    """30 MiB in each of two segments keep both alive: 200 MiB more must be new memory."""
    trace = trace_of((0, 30), (1, 70), (2, 30), (3, 70), (1, 0), (3, 0), (4, 200))
    assert smallest_capacity_bytes(trace, CONFIG) >= 260 * MIB


@pytest.mark.parametrize("slack", [0, 1, 40])
def test_the_unlimited_run_needs_what_it_reserves_at_the_most(slack):
    trace = trace_of((0, 64), (1, 64 + slack))
    reserved = profile(trace, first_steady_step=0, config=CONFIG).peak_reserved_bytes
    assert smallest_capacity_bytes(trace, CONFIG) <= reserved
