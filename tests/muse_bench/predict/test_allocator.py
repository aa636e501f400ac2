"""The simulated caching allocator on hand-worked traces: sizes, best fit, limits, replay."""

import itertools
from typing import Any

import pytest

from muse_bench.predict.allocator import AllocatorConfig, Block, CachingAllocator, Event, OutOfMemory, replay

KIB = 1 << 10
MIB = 1 << 20


def counts(allocator: CachingAllocator) -> tuple[int, int, int]:
    return allocator.requested_bytes, allocator.allocated_bytes, allocator.reserved_bytes


@pytest.mark.parametrize(
    ("request_bytes", "block_bytes", "segment_bytes"),
    [
        (1, 512, 2 * MIB),
        (512, 512, 2 * MIB),
        (513, 1024, 2 * MIB),
        (MIB, MIB, 2 * MIB),  # the last size of the small pool
        (MIB + 1, MIB + 512, 20 * MIB),  # the first of the large pool; 18.9 MiB remain, so it is split
        (10 * MIB - 512, 10 * MIB - 512, 20 * MIB),  # the last that shares a 20 MiB segment
        (10 * MIB - 511, 10 * MIB, 10 * MIB),  # rounds up to 10 MiB before the segment is chosen
        (10 * MIB, 10 * MIB, 10 * MIB),
        (10 * MIB + 1, 10 * MIB + 512, 12 * MIB),  # 2 MiB - 512 remain, more than 1 MiB: split
        (11 * MIB - 1, 12 * MIB, 12 * MIB),  # rounds to 11 MiB; exactly 1 MiB remains: not split
        (11 * MIB - 512, 11 * MIB - 512, 12 * MIB),  # 1 MiB + 512 remain: split
    ],
)
def test_a_fresh_request_gets_this_block_in_this_segment(
    request_bytes: int, block_bytes: int, segment_bytes: int
) -> None:
    allocator = CachingAllocator()
    block = allocator.malloc(request_bytes)
    assert (block.requested_bytes, block.size_bytes) == (request_bytes, block_bytes)
    assert counts(allocator) == (request_bytes, block_bytes, segment_bytes)


def test_a_block_that_is_not_split_counts_whole() -> None:
    # A model of 19.5 MiB in one tensor: of its 20 MiB segment 0.5 MiB remain, so all 20 MiB are allocated.
    allocator = CachingAllocator()
    allocator.malloc(19 * MIB + 512 * KIB)
    assert counts(allocator) == (19 * MIB + 512 * KIB, 20 * MIB, 20 * MIB)


def test_a_reused_block_is_split_only_above_1_mib() -> None:
    # A cached 12 MiB segment serves 11 MiB whole (1 MiB over), then 10 MiB in part (2 MiB over).
    allocator = CachingAllocator()
    allocator.free(allocator.malloc(12 * MIB))
    whole = allocator.malloc(11 * MIB)
    assert whole.size_bytes == 12 * MIB
    allocator.free(whole)
    assert allocator.malloc(10 * MIB).size_bytes == 10 * MIB
    assert allocator.reserved_bytes == 12 * MIB


def test_the_small_pool_splits_down_to_512() -> None:
    # 1 MiB and 1 MiB - 512 leave exactly 512 bytes of the 2 MiB segment, enough for one byte more.
    allocator = CachingAllocator()
    for size in (MIB, MIB - 512, 1):
        allocator.malloc(size)
    assert allocator.allocated_bytes == allocator.reserved_bytes == 2 * MIB
    allocator.malloc(1)
    assert allocator.reserved_bytes == 4 * MIB


def test_zero_bytes_allocate_nothing() -> None:
    allocator = CachingAllocator()
    nothing = allocator.malloc(0)
    allocator.free(nothing)
    allocator.free(nothing)
    assert (nothing.address, nothing.size_bytes, counts(allocator)) == (0, 0, (0, 0, 0))


def test_fragmentation_forces_a_new_segment_until_neighbours_merge() -> None:
    # One 20 MiB segment: 4 MiB blocks a, b, c, 8 MiB free. With a and c free the runs are 4 and 12 MiB, so
    # 13 MiB need a segment of 14 MiB; with b free too the 20 MiB are one block again.
    allocator = CachingAllocator()
    a, b, c = (allocator.malloc(4 * MIB) for _ in range(3))
    allocator.free(a)
    allocator.free(c)
    big = allocator.malloc(13 * MIB)
    assert allocator.reserved_bytes == 34 * MIB
    allocator.free(big)
    allocator.free(b)
    assert [segment.blocks for segment in allocator.segments()] == [
        (Block(a.address, 20 * MIB, 0),),
        (Block(big.address, 14 * MIB, 0),),
    ]


def test_best_fit_takes_the_smallest_block_that_fits() -> None:
    # Free blocks of 6 and 3 MiB between live ones: 3 MiB go to the second although the first comes first.
    allocator = CachingAllocator()
    six, _, three, _ = (allocator.malloc(size * MIB) for size in (6, 2, 3, 2))
    allocator.free(six)
    allocator.free(three)
    assert allocator.malloc(3 * MIB).address == three.address


@pytest.mark.parametrize("low_first", [True, False])
def test_equal_blocks_are_taken_by_address(low_first: bool) -> None:
    low, high = 0x1000_0000, 0x2000_0000
    addresses = iter([low, high] if low_first else [high, low])
    allocator = CachingAllocator(segment_address=lambda _: next(addresses))
    blocks = [allocator.malloc(10 * MIB) for _ in range(2)]
    for block in blocks:
        allocator.free(block)
    assert allocator.malloc(10 * MIB).address == low


def test_pools_do_not_serve_each_other() -> None:
    allocator = CachingAllocator()
    allocator.free(allocator.malloc(5 * MIB))
    allocator.malloc(1)
    assert [(s.size_bytes, s.is_small) for s in allocator.segments()] == [(20 * MIB, False), (2 * MIB, True)]


def test_blocks_of_different_segments_never_merge() -> None:
    # Two 10 MiB segments that happen to be adjacent stay two blocks: 20 MiB need a third segment.
    addresses = iter([0x1000_0000, 0x1000_0000 + 10 * MIB, 0x4000_0000])
    allocator = CachingAllocator(segment_address=lambda _: next(addresses))
    for block in [allocator.malloc(10 * MIB) for _ in range(2)]:
        allocator.free(block)
    allocator.malloc(20 * MIB)
    assert allocator.reserved_bytes == 40 * MIB


def test_peaks_outlive_frees_until_reset() -> None:
    allocator = CachingAllocator()
    block = allocator.malloc(12 * MIB - 1)
    allocator.free(block)
    allocator.empty_cache()
    allocator.malloc(1)
    peaks = (allocator.peak_requested_bytes, allocator.peak_allocated_bytes, allocator.peak_reserved_bytes)
    assert peaks == (12 * MIB - 1, 12 * MIB, 12 * MIB)
    allocator.reset_peaks()
    peaks = (allocator.peak_requested_bytes, allocator.peak_allocated_bytes, allocator.peak_reserved_bytes)
    assert peaks == (1, 512, 2 * MIB)


def test_empty_cache_keeps_segments_in_part_used() -> None:
    allocator = CachingAllocator()
    kept, freed = allocator.malloc(4 * MIB), allocator.malloc(4 * MIB)
    allocator.free(allocator.malloc(30 * MIB))
    allocator.free(freed)
    allocator.empty_cache()
    assert [s.address for s in allocator.segments()] == [kept.address]
    assert allocator.reserved_bytes == 20 * MIB


@pytest.mark.parametrize(("capacity_mib", "allowed_mib"), [(30, None), (None, 30), (30, 40), (40, 30)])
def test_a_limit_in_the_way_returns_the_cache_and_then_refuses(
    capacity_mib: int | None, allowed_mib: int | None
) -> None:
    allocator = CachingAllocator(
        capacity_bytes=capacity_mib and capacity_mib * MIB, allowed_bytes=allowed_mib and allowed_mib * MIB
    )
    allocator.free(allocator.malloc(12 * MIB))
    allocator.malloc(20 * MIB)  # 12 + 20 > 30: the cached 12 are returned first
    assert (allocator.reserved_bytes, allocator.peak_reserved_bytes) == (20 * MIB, 20 * MIB)
    with pytest.raises(OutOfMemory) as caught:
        allocator.malloc(12 * MIB - 1)
    error = caught.value
    assert (error.requested_bytes, error.allocated_bytes) == (12 * MIB, 20 * MIB)
    assert (error.reserved_bytes, error.capacity_bytes) == (20 * MIB, 30 * MIB)
    allocator.malloc(10 * MIB)  # exactly full
    assert allocator.reserved_bytes == 30 * MIB


def test_cache_is_kept_while_the_limit_is_not_in_the_way() -> None:
    allocator = CachingAllocator(capacity_bytes=32 * MIB)
    allocator.free(allocator.malloc(12 * MIB))
    allocator.malloc(20 * MIB)
    assert allocator.reserved_bytes == 32 * MIB


def test_max_split_size_keeps_oversize_blocks_whole_and_for_their_like() -> None:
    # Oversize means 32 MiB and more. A cached 64 MiB block serves neither a 5 MiB request (not oversize) nor
    # one of 44 MiB (64 >= 44 + 20), but does serve 45 MiB (64 < 65), whole.
    allocator = CachingAllocator(AllocatorConfig(max_split_size_bytes=32 * MIB))
    allocator.free(allocator.malloc(64 * MIB))
    allocator.malloc(5 * MIB)
    assert allocator.reserved_bytes == 84 * MIB
    allocator.free(allocator.malloc(44 * MIB))
    assert allocator.reserved_bytes == 128 * MIB
    allocator.malloc(45 * MIB)
    assert (allocator.allocated_bytes, allocator.reserved_bytes) == (69 * MIB, 128 * MIB)


def test_max_non_split_rounding_widens_that_reuse() -> None:
    config = AllocatorConfig(max_split_size_bytes=32 * MIB, max_non_split_rounding_bytes=25 * MIB)
    allocator = CachingAllocator(config)
    allocator.free(allocator.malloc(64 * MIB))
    assert allocator.malloc(40 * MIB).size_bytes == 64 * MIB  # 64 < 40 + 25


def test_max_split_size_returns_one_oversize_block_that_suffices() -> None:
    # 64, 36 and 20 MiB cached of 130: 40 MiB more do not fit. Returning the 64 suffices; 36 and 20 stay.
    allocator = CachingAllocator(AllocatorConfig(max_split_size_bytes=32 * MIB), capacity_bytes=130 * MIB)
    for block in [allocator.malloc(size * MIB) for size in (64, 36, 20)]:
        allocator.free(block)
    allocator.malloc(40 * MIB)
    assert [s.size_bytes // MIB for s in allocator.segments()] == [36, 20, 40]


def test_max_split_size_returns_several_oversize_blocks_largest_first() -> None:
    # No cached block has 70 MiB: 40 and 36 go (76 >= 70), 34 and the 20 that is not oversize stay.
    allocator = CachingAllocator(AllocatorConfig(max_split_size_bytes=32 * MIB), capacity_bytes=130 * MIB)
    for block in [allocator.malloc(size * MIB) for size in (34, 36, 40, 20)]:
        allocator.free(block)
    allocator.malloc(70 * MIB)
    assert [s.size_bytes // MIB for s in allocator.segments()] == [34, 20, 70]


def test_without_max_split_size_the_whole_cache_goes() -> None:
    allocator = CachingAllocator(capacity_bytes=130 * MIB)
    for block in [allocator.malloc(size * MIB) for size in (64, 36, 20)]:
        allocator.free(block)
    allocator.malloc(66 * MIB)
    assert allocator.reserved_bytes == 66 * MIB


@pytest.mark.parametrize(("allowed_bytes", "reserved_bytes"), [(None, 102 * MIB), (100 * MIB, 72 * MIB)])
def test_garbage_collection_returns_what_lay_free_longest(allowed_bytes: int | None, reserved_bytes: int) -> None:
    # Threshold 50 of 100 MiB. 30 MiB are free since search 1, 32 MiB since search 2. Search 3 wants 40 MiB
    # and finds 62 > 50 reserved: ages 2 and 1, mean 1.5, so only the 30 go (62 - 30 <= 50): 32 + 40 = 72.
    # Without a limit nothing is collected: 30 + 32 + 40 = 102.
    config = AllocatorConfig(garbage_collection_threshold=0.5)
    allocator = CachingAllocator(config, allowed_bytes=allowed_bytes)
    allocator.free(allocator.malloc(30 * MIB))
    allocator.free(allocator.malloc(32 * MIB))
    allocator.malloc(40 * MIB)
    assert allocator.reserved_bytes == reserved_bytes


def test_garbage_collection_goes_on_until_it_is_under_the_threshold() -> None:
    # Threshold 120 of 400 MiB; 12, 32 and 34 MiB lie free since searches 1, 4 and 5, 72 MiB are live. Search 6
    # wants 40 MiB and finds 150: ages 5, 2, 1, mean 2.7, so 12 go; of the rest, mean 1.5, 32 go: 106 + 40.
    allocator = CachingAllocator(AllocatorConfig(garbage_collection_threshold=0.3), allowed_bytes=400 * MIB)
    allocator.free(allocator.malloc(12 * MIB))
    for _ in range(2):
        allocator.malloc(36 * MIB)
    allocator.free(allocator.malloc(32 * MIB))
    allocator.free(allocator.malloc(34 * MIB))
    allocator.malloc(40 * MIB)
    assert [s.size_bytes // MIB for s in allocator.segments()] == [36, 36, 34, 40]


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="-1 bytes"):
        CachingAllocator().malloc(-1)


def test_a_block_is_freed_once_by_its_own_allocator() -> None:
    allocator = CachingAllocator()
    block = allocator.malloc(512)
    with pytest.raises(ValueError, match="not live"):
        CachingAllocator().free(block)
    allocator.free(block)
    with pytest.raises(ValueError, match="not live"):
        allocator.free(block)
    again = allocator.malloc(512)
    assert again == block  # the same place, but not the same allocation
    with pytest.raises(ValueError, match="not live"):
        allocator.free(block)
    assert allocator.allocated_bytes == 512


@pytest.mark.parametrize("address", [0, 0x1000_0001, 0x1000_0000 + 9 * MIB, 0x1000_0000 - 9 * MIB, 0x1000_0000])
def test_a_segment_address_must_be_aligned_and_not_taken(address: int) -> None:
    addresses = iter([0x1000_0000, address])
    allocator = CachingAllocator(segment_address=lambda _: next(addresses))
    allocator.malloc(10 * MIB)
    with pytest.raises(ValueError, match="unaligned or taken"):
        allocator.malloc(10 * MIB)


def test_a_returned_address_may_come_again() -> None:
    allocator = CachingAllocator(segment_address=lambda _: 0x1000_0000)
    allocator.free(allocator.malloc(10 * MIB))
    allocator.empty_cache()
    assert allocator.malloc(12 * MIB).address == 0x1000_0000


def test_default_addresses_increase_by_whole_2_mib() -> None:
    allocator = CachingAllocator()
    addresses = [allocator.malloc(size).address for size in (1, 19 * MIB, 11 * MIB, 32 * MIB)]
    assert all(address % (2 * MIB) == 0 for address in addresses)
    assert [b - a for a, b in itertools.pairwise(addresses)] == [2 * MIB, 20 * MIB, 12 * MIB]
    odd = CachingAllocator(AllocatorConfig(large_segment_bytes=11 * MIB))
    assert odd.malloc(9 * MIB).address + 12 * MIB == odd.malloc(9 * MIB).address


def test_replay_reports_peaks_and_the_level_after_each_event() -> None:
    # 4 MiB live throughout, 12 MiB come and go; after the reset the peak is what is live plus 1 MiB.
    events = [
        Event("alloc", 1, 4 * MIB),
        Event("alloc", 2, 12 * MIB),
        Event("free", 2),
        Event("empty_cache"),
        Event("reset_peaks"),
        Event("alloc", 2, MIB - 100),
    ]
    result = replay(events, keep_timeline=True)
    assert result.timeline == (4 * MIB, 16 * MIB, 4 * MIB, 4 * MIB, 4 * MIB, 5 * MIB)
    assert (result.peak_allocated_bytes, result.allocated_bytes) == (5 * MIB, 5 * MIB)
    assert (result.peak_requested_bytes, result.requested_bytes) == (5 * MIB - 100, 5 * MIB - 100)
    assert (result.peak_reserved_bytes, result.reserved_bytes) == (22 * MIB, 22 * MIB)
    assert replay(events[:3]).peak_allocated_bytes == 16 * MIB
    assert replay(events).timeline is None


@pytest.mark.parametrize(
    "events",
    [
        [Event("free", 1)],
        [Event("alloc", 1, 512), Event("alloc", 1, 512)],
        [Event("alloc", 1, 512), Event("free", 1), Event("free", 1)],
        [("grow", 1, 512)],
    ],
)
def test_replay_refuses_events_that_cannot_follow(events: list[Any]) -> None:
    with pytest.raises(ValueError, match="of key 1"):
        replay(events)


def test_replay_stops_where_memory_ends() -> None:
    events = [Event("alloc", 1, 12 * MIB), Event("alloc", 2, 12 * MIB)]
    with pytest.raises(OutOfMemory):
        replay(events, CachingAllocator(capacity_bytes=20 * MIB))
