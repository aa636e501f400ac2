"""The simulated caching allocator against a GPU's recorded counts, and its invariants on random steps."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muse_bench.predict.allocator import AllocatorConfig, Block, CachingAllocator, OutOfMemory, Segment

MIB = 1 << 20
EXPANDABLE = AllocatorConfig(expandable_segments=True)
RECORDED_RUNS = json.loads(Path(__file__).with_name("recorded_runs.json").read_text())["runs"]


def counts(allocator: CachingAllocator) -> tuple[int, int, int]:
    return allocator.requested_bytes, allocator.allocated_bytes, allocator.reserved_bytes


@pytest.mark.parametrize("run", RECORDED_RUNS, ids=[run["config"] or "default" for run in RECORDED_RUNS])
def test_recorded_runs_are_reproduced_step_by_step(run: dict[str, Any]) -> None:
    config = AllocatorConfig.from_environment_string(run["config"])
    addresses = iter(run["segments"])

    def place(size_bytes: int) -> int:
        address, recorded_bytes = next(addresses)
        assert size_bytes == recorded_bytes
        return int(address)

    allocator = CachingAllocator(
        config,
        allowed_bytes=run["allowed_bytes"],
        gpu_bytes=run["gpu_bytes"],
        segment_address=None if config.expandable_segments else place,
    )
    blocks: list[Block | None] = []
    refused, reserved, allocated = [], [(0, 0)], []
    for number, step in enumerate(run["steps"]):
        if step > 0:
            try:
                blocks.append(allocator.malloc(step))
            except OutOfMemory:
                blocks.append(None)
                refused.append(number)
        elif step < 0:
            block = blocks[-1 - step]
            assert block is not None
            allocator.free(block)
        else:
            allocator.empty_cache()
        if allocator.reserved_bytes != reserved[-1][1]:
            reserved.append((number, allocator.reserved_bytes))
        if number % 20 == 0:
            allocated.append(allocator.allocated_bytes)
    assert refused == run["refused"]
    assert reserved[1:] == [tuple(change) for change in run["reserved"]]
    assert allocated == run["allocated"]


CONFIGS = st.sampled_from(
    [
        AllocatorConfig(),
        EXPANDABLE,
        AllocatorConfig(max_split_size_bytes=20 * MIB),
        AllocatorConfig(roundup_power2_divisions=4),
        AllocatorConfig(garbage_collection_threshold=0.3),
        AllocatorConfig(expandable_segments=True, max_split_size_bytes=20 * MIB),
    ]
)
SIZES = st.one_of(
    st.integers(1, 4096),
    st.integers(MIB - 1024, MIB + 1024),
    st.integers(1, 12 * MIB),
    st.integers(9 * MIB, 45 * MIB),
)
FREE, EMPTY = "free", "empty_cache"
STEPS = st.lists(st.one_of(SIZES, SIZES, st.tuples(st.just(FREE), st.integers(0, 99)), st.just(EMPTY)), max_size=50)
LIMITS = st.one_of(st.none(), st.integers(20, 120).map(lambda mib: mib * MIB))


def take(allocator: CachingAllocator, live: list[Block], step: Any) -> None:
    """Does one step; a request that does not fit is let go."""
    if step == EMPTY:
        allocator.empty_cache()
    elif isinstance(step, tuple):
        if live:
            allocator.free(live.pop(step[1] % len(live)))
    else:
        try:
            live.append(allocator.malloc(step))
        except OutOfMemory:
            return


def check_segment(segment: Segment) -> None:
    """Blocks tile the segment in multiples of 512, with room for their requests, no two neighbours free."""
    end = segment.address
    for block in segment.blocks:
        assert block.address == end
        assert block.size_bytes % 512 == 0
        assert block.size_bytes >= max(block.requested_bytes, 512)
        end += block.size_bytes
    assert end == segment.address + segment.size_bytes
    for left, right in itertools.pairwise(segment.blocks):
        assert left.requested_bytes or right.requested_bytes


def check(allocator: CachingAllocator, live: list[Block]) -> None:
    """The allocator's counts and its layout agree with each other and with what the caller holds."""
    segments = allocator.segments()
    for segment in segments:
        check_segment(segment)
    for left, right in itertools.pairwise(segments):
        assert left.address + left.size_bytes <= right.address
    held = sorted(live, key=lambda block: block.address)
    assert [block for s in segments for block in s.blocks if block.requested_bytes] == held
    assert counts(allocator) == (
        sum(block.requested_bytes for block in live),
        sum(block.size_bytes for block in live),
        sum(segment.size_bytes for segment in segments),
    )
    assert allocator.peak_requested_bytes >= allocator.requested_bytes
    assert allocator.peak_allocated_bytes >= allocator.allocated_bytes
    assert allocator.peak_reserved_bytes >= allocator.reserved_bytes >= allocator.allocated_bytes


@settings(deadline=None, max_examples=150)
@given(CONFIGS, LIMITS, LIMITS, STEPS)
def test_layout_and_counts_agree_after_every_step(
    config: AllocatorConfig, capacity_bytes: int | None, allowed_bytes: int | None, steps: list[Any]
) -> None:
    allocator = CachingAllocator(config, capacity_bytes=capacity_bytes, allowed_bytes=allowed_bytes)
    live: list[Block] = []
    for step in steps:
        peaks = (
            allocator.peak_requested_bytes,
            allocator.peak_allocated_bytes,
            allocator.peak_reserved_bytes,
        )
        take(allocator, live, step)
        check(allocator, live)
        assert allocator.peak_requested_bytes >= peaks[0]
        assert allocator.peak_allocated_bytes >= peaks[1]
        assert allocator.peak_reserved_bytes >= peaks[2]
        assert capacity_bytes is None or allocator.reserved_bytes <= capacity_bytes


@settings(deadline=None, max_examples=100)
@given(CONFIGS, LIMITS, STEPS)
def test_all_memory_comes_back(config: AllocatorConfig, capacity_bytes: int | None, steps: list[Any]) -> None:
    allocator = CachingAllocator(config, capacity_bytes=capacity_bytes)
    live: list[Block] = []
    for step in steps:
        take(allocator, live, step)
    for block in live:
        allocator.free(block)
    allocator.empty_cache()
    assert counts(allocator) == (0, 0, 0)
    assert allocator.segments() == ()


@settings(deadline=None, max_examples=100)
@given(STEPS, SIZES)
def test_the_block_chosen_is_the_first_by_size_and_address(steps: list[Any], size_bytes: int) -> None:
    allocator = CachingAllocator()
    live: list[Block] = []
    for step in steps:
        take(allocator, live, step)
    rounded = -(-size_bytes // 512) * 512
    fitting = [
        (block.size_bytes, block.address)
        for segment in allocator.segments()
        for block in segment.blocks
        if segment.is_small == (rounded <= MIB) and not block.requested_bytes and block.size_bytes >= rounded
    ]
    reserved_bytes = allocator.reserved_bytes
    block = allocator.malloc(size_bytes)
    if fitting:
        assert (block.address, allocator.reserved_bytes) == (min(fitting)[1], reserved_bytes)
    else:
        assert allocator.reserved_bytes > reserved_bytes


@settings(deadline=None, max_examples=50)
@given(CONFIGS, STEPS)
def test_only_the_order_of_addresses_matters(config: AllocatorConfig, steps: list[Any]) -> None:
    far = iter(range(1 << 41, 1 << 60, 1 << 41))
    near, spread = CachingAllocator(config), CachingAllocator(config, segment_address=lambda _: next(far))
    mine: list[Block] = []
    yours: list[Block] = []
    for step in steps:
        take(near, mine, step)
        take(spread, yours, step)
        assert counts(near) == counts(spread)
