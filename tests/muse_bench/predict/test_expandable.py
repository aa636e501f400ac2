"""Expandable segments on hand-worked traces; pages have 20 MiB in the large pool and 2 MiB in the small."""

import pytest

from muse_bench.predict.allocator import AllocatorConfig, CachingAllocator, OutOfMemory

KIB = 1 << 10
MIB = 1 << 20
EXPANDABLE = AllocatorConfig(expandable_segments=True)


def test_an_expandable_segment_grows_by_pages_and_splits_at_512() -> None:
    # 19.5 MiB map one 20 MiB page; the next 20 MiB begin in the 0.5 MiB left over and map one more.
    allocator = CachingAllocator(EXPANDABLE)
    first = allocator.malloc(19 * MIB + 512 * KIB)
    assert (allocator.allocated_bytes, allocator.reserved_bytes) == (19 * MIB + 512 * KIB, 20 * MIB)
    second = allocator.malloc(20 * MIB)
    assert second.address == first.address + first.size_bytes
    assert allocator.reserved_bytes == 40 * MIB
    allocator.malloc(MIB)  # the small pool maps 2 MiB at a time
    assert allocator.reserved_bytes == 42 * MIB


def test_an_expandable_segment_maps_all_pages_a_request_needs_at_once() -> None:
    allocator = CachingAllocator(EXPANDABLE)
    allocator.malloc(50 * MIB)
    assert allocator.reserved_bytes == 60 * MIB


def test_empty_cache_unmaps_only_whole_free_pages_and_they_are_filled_again() -> None:
    # Live [0, 5), free [5, 40) MiB: of the pages [0, 20) and [20, 40) only the second is free. 16 MiB then
    # use the 15 MiB left in the first page and map the second again.
    allocator = CachingAllocator(EXPANDABLE)
    live, rest = allocator.malloc(5 * MIB), allocator.malloc(35 * MIB)
    allocator.free(rest)
    allocator.empty_cache()
    assert allocator.reserved_bytes == 20 * MIB
    again = allocator.malloc(16 * MIB)
    assert (again.address - live.address, allocator.reserved_bytes) == (5 * MIB, 40 * MIB)


def test_a_hole_of_unmapped_pages_is_filled_before_the_end_grows() -> None:
    # Live [0, 5) and [55, 60): freeing [5, 55) and unmapping leaves a hole over the page [20, 40). 40 MiB at
    # [5, 45) map that page alone.
    allocator = CachingAllocator(EXPANDABLE)
    first, middle, _ = (allocator.malloc(size * MIB) for size in (5, 50, 5))
    allocator.free(middle)
    allocator.empty_cache()
    assert [s.size_bytes // MIB for s in allocator.segments()] == [20, 20]
    assert allocator.malloc(40 * MIB).address == first.address + 5 * MIB
    assert [s.size_bytes // MIB for s in allocator.segments()] == [60]


def test_best_fit_spares_the_end_that_can_still_grow() -> None:
    # Free: 12 MiB at the start and 10 MiB at the end. 10 MiB fit the end exactly, but the end counts with all
    # the address space behind it, so the 12 MiB are the better fit.
    allocator = CachingAllocator(EXPANDABLE)
    start, _, _ = (allocator.malloc(size * MIB) for size in (12, 8, 10))
    allocator.free(start)
    assert allocator.reserved_bytes == 40 * MIB
    assert allocator.malloc(10 * MIB).address == start.address


def test_equal_holes_are_taken_by_address() -> None:
    allocator = CachingAllocator(EXPANDABLE)
    first, _, second, _ = (allocator.malloc(size * MIB) for size in (4, 2, 4, 10))
    allocator.free(second)
    allocator.free(first)
    assert allocator.malloc(4 * MIB).address == first.address


def test_an_empty_expandable_segment_gives_its_address_space_back() -> None:
    places: list[int] = []

    def place(size_bytes: int) -> int:
        places.append(size_bytes)
        return 1 << 40

    allocator = CachingAllocator(EXPANDABLE, gpu_bytes=160 * MIB, segment_address=place)
    allocator.free(allocator.malloc(50 * MIB))
    allocator.empty_cache()
    assert (allocator.reserved_bytes, allocator.segments()) == (0, ())
    assert allocator.malloc(50 * MIB).address == 1 << 40
    assert places == [180 * MIB, 180 * MIB]  # 9/8 of 160 MiB, in whole pages of 20 MiB


def test_expandable_capacity_is_checked_page_by_page() -> None:
    # Of 50 MiB, 40 are mapped; 15 of them are free. 16 MiB need one page more: no. 15 MiB fit.
    allocator = CachingAllocator(EXPANDABLE, capacity_bytes=50 * MIB)
    allocator.malloc(25 * MIB)
    with pytest.raises(OutOfMemory):
        allocator.malloc(16 * MIB)
    allocator.malloc(15 * MIB)
    assert allocator.reserved_bytes == 40 * MIB


def test_pages_mapped_before_memory_ran_out_count_in_the_peak() -> None:
    # Five pages of 20 MiB, of which [1] and [3] are unmapped and [2] is free, and 20 MiB in small pages: 80
    # of 100 MiB. 60 MiB would join [1] to [3]: mapping [1] reaches 100, and [3] does not fit. The retry returns
    # [1] and [2], which leaves 60 reserved and 40 to be had: not enough either.
    allocator = CachingAllocator(EXPANDABLE, capacity_bytes=100 * MIB)
    pages = [allocator.malloc(20 * MIB) for _ in range(5)]
    for page in (pages[1], pages[3]):
        allocator.free(page)
        allocator.empty_cache()
    allocator.free(pages[2])
    for _ in range(20):
        allocator.malloc(MIB)
    assert allocator.reserved_bytes == 80 * MIB
    allocator.reset_peaks()
    with pytest.raises(OutOfMemory):
        allocator.malloc(60 * MIB)
    assert (allocator.peak_reserved_bytes, allocator.reserved_bytes) == (100 * MIB, 60 * MIB)


@pytest.mark.parametrize(("allowed_mib", "fits"), [(35, False), (36, True)])
def test_expandable_segments_check_the_process_limit_before_mapping(allowed_mib: int, fits: bool) -> None:
    # 20 MiB are mapped, 15 of them free. 16 MiB are checked as a segment of 16: 36 in all. Where that passes,
    # a page of 20 is mapped, and the process holds 40, more than it may: so it was on an H200 too.
    allocator = CachingAllocator(EXPANDABLE, allowed_bytes=allowed_mib * MIB)
    allocator.malloc(5 * MIB)
    if fits:
        allocator.malloc(16 * MIB)
    else:
        with pytest.raises(OutOfMemory):
            allocator.malloc(16 * MIB)
    assert allocator.reserved_bytes == (40 if fits else 20) * MIB
