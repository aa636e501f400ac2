"""Where segments are put: the order of addresses decides ties between free blocks."""

import itertools

from muse_bench.predict.driver import CHUNK_BYTES, HOLE_BYTES, DriverAddresses

MIB = 1 << 20


def test_the_hole_below_the_first_segment_is_filled_upwards() -> None:
    driver = DriverAddresses()
    first, *rest = (driver.take(20 * MIB) for _ in range(5))
    assert rest == sorted(rest)
    assert max(rest) < first


def test_chunks_come_downwards_when_the_hole_is_full() -> None:
    driver = DriverAddresses()
    driver.take(2 * MIB)
    driver.take(HOLE_BYTES)
    chunks = [driver.take(CHUNK_BYTES) for _ in range(4)]
    assert chunks == sorted(chunks, reverse=True)


def test_the_lowest_gap_is_filled_first() -> None:
    driver = DriverAddresses()
    driver.take(2 * MIB)
    driver.take(HOLE_BYTES)
    upper, lower = driver.take(20 * MIB), driver.take(20 * MIB)
    assert lower < upper
    assert driver.take(2 * MIB) == lower + 20 * MIB


def test_segments_never_overlap_and_freed_room_is_used_again() -> None:
    driver = DriverAddresses()
    sizes = [2, 20, 74, 2, 38, 126, 20, 2, 300, 20, 64]
    placed = {driver.take(size * MIB): size * MIB for size in sizes}
    assert len(placed) == len(sizes)
    for (low, size), (high, _) in itertools.pairwise(sorted(placed.items())):
        assert low + size <= high
    victim = sorted(placed)[3]
    driver.give_back(victim)
    assert driver.take(placed[victim]) == victim


def test_recorded_addresses_are_given_out_again_until_the_sizes_differ() -> None:
    driver = DriverAddresses([(1 << 40, 2 * MIB), (1 << 41, 20 * MIB), (1 << 42, 20 * MIB)])
    assert driver.take(2 * MIB) == 1 << 40
    assert driver.take(2 * MIB) not in (1 << 41, 1 << 42)
    assert driver.take(20 * MIB) != 1 << 42
