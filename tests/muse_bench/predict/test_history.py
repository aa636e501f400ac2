"""Recorded memory histories as events: what is kept, what is left out, and an exact replay."""

from typing import Any

import pytest

from muse_bench.predict.allocator import AllocatorConfig, CachingAllocator, Event, replay
from muse_bench.predict.history import recorded_events

MIB = 1 << 20
LOW, HIGH = 0x1000_0000, 0x2000_0000


def entry(action: str, addr: int, size: int, **others: Any) -> dict[str, Any]:
    return {"action": action, "addr": addr, "size": size, "stream": 0, "time_us": 0, **others}


def freed(addr: int, size: int) -> list[dict[str, Any]]:
    return [entry("free_requested", addr, size), entry("free_completed", addr, size)]


def test_a_run_is_replayed_at_its_own_addresses() -> None:
    # Two 10 MiB segments, the second at the lower address. Both are freed; 9.5 MiB then take the lower one
    # whole, as the run did: with addresses that only increase they would take the other.
    trace = [
        entry("segment_alloc", HIGH, 10 * MIB),
        entry("alloc", HIGH, 10 * MIB - 3),
        entry("segment_alloc", LOW, 10 * MIB),
        entry("alloc", LOW, 10 * MIB),
        *freed(HIGH, 10 * MIB - 3),
        *freed(LOW, 10 * MIB),
        entry("alloc", LOW, 10 * MIB - MIB // 2),
        {"action": "snapshot", "addr": 0, "size": 0, "stream": 0},
    ]
    history = recorded_events(trace)
    assert history.segments == ((HIGH, 10 * MIB), (LOW, 10 * MIB))
    allocator = CachingAllocator(segment_address=history.segment_address())
    result = replay(history.events, allocator, keep_timeline=True)
    assert result.timeline == (10 * MIB, 20 * MIB, 10 * MIB, 0, 10 * MIB)
    assert result.peak_requested_bytes == 20 * MIB - 3
    live = [b for s in allocator.segments() for b in s.blocks if b.requested_bytes]
    assert [(block.address, block.requested_bytes) for block in live] == [(LOW, 10 * MIB - MIB // 2)]


def test_a_free_counts_where_it_completes() -> None:
    # Another stream still used the block: until the free completes its memory cannot be taken again.
    trace = [
        entry("alloc", LOW, 512),
        entry("free_requested", LOW, 512),
        entry("alloc", LOW + 512, 512),
        entry("free_completed", LOW, 512),
    ]
    assert recorded_events(trace).events == (Event("alloc", 0, 512), Event("alloc", 1, 512), Event("free", 0))


def test_an_address_used_again_is_another_allocation() -> None:
    trace = [entry("alloc", LOW, 512), *freed(LOW, 512), entry("alloc", LOW, 400), *freed(LOW, 400)]
    assert [event.key for event in recorded_events(trace).events] == [0, 0, 1, 1]


def test_blocks_from_before_the_recording_are_left_out() -> None:
    trace = [*freed(HIGH, 512), entry("alloc", LOW, 512), *freed(HIGH + 512, 512)]
    assert recorded_events(trace).events == (Event("alloc", 0, 512),)


def test_one_stream_that_is_not_the_default_is_one_stream() -> None:
    trace = [entry("alloc", LOW, 512, stream=7), entry("snapshot", 0, 0), entry("alloc", HIGH, 512, stream=7)]
    assert len(recorded_events(trace).events) == 2


def test_memory_returned_at_once_is_one_empty_cache() -> None:
    trace = [
        entry("alloc", LOW, 512),
        *freed(LOW, 512),
        entry("segment_free", LOW, 2 * MIB),
        entry("segment_free", HIGH, 20 * MIB),
        {"action": "oom", "device_free": 0, "size": 512, "stream": 0},  # has no address
        entry("segment_map", LOW, 2 * MIB),
        entry("alloc", LOW, 512),
        entry("segment_unmap", HIGH, 20 * MIB),
    ]
    kinds = [event.kind for event in recorded_events(trace).events]
    assert kinds == ["alloc", "free", "empty_cache", "alloc", "empty_cache"]


def test_a_replay_that_leaves_the_recorded_path_is_noticed() -> None:
    trace = [entry("segment_alloc", LOW, 20 * MIB), entry("alloc", LOW, 5 * MIB)]
    history = recorded_events(trace)
    config = AllocatorConfig(large_segment_bytes=64 * MIB)
    with pytest.raises(ValueError, match=f"asks for {64 * MIB} bytes, the run for {20 * MIB}"):
        replay(history.events, CachingAllocator(config, segment_address=history.segment_address()))
    allocator = CachingAllocator(segment_address=history.segment_address())
    replay(history.events, allocator)
    with pytest.raises(ValueError, match="the run for 0"):
        allocator.malloc(30 * MIB)


@pytest.mark.parametrize(
    ("trace", "message"),
    [
        ([entry("alloc", LOW, 1), entry("alloc", HIGH, 1, stream=7)], "several streams"),
        ([entry("alloc", LOW, 1, pool_id=(0, 1))], "private pool"),
        ([entry("segment_shrink", LOW, 1)], "unknown action 'segment_shrink'"),
    ],
)
def test_what_the_simulation_does_not_cover_is_refused(trace: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recorded_events(trace)
