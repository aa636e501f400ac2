"""The allocator's settings: what each does to sizes, and which texts are refused."""

import pytest

from muse_bench.predict.allocator import AllocatorConfig, CachingAllocator

KIB = 1 << 10
MIB = 1 << 20


@pytest.mark.parametrize(
    ("divisions", "request_bytes", "block_bytes"),
    [
        (0, 3000, 3072),
        (1, 5 * MIB + 1, 5 * MIB + 512),  # one division is none
        (4, 2048, 2048),  # not above 512 x 4: plain rounding
        (4, 2049, 2560),  # between 2048 and 4096 in steps of 512
        (4, 4 * MIB, 4 * MIB),  # a power of two stays
        (4, 4 * MIB + 1, 5 * MIB),  # between 4 and 8 MiB in steps of 1 MiB
        (8, 4 * MIB + 1, 4 * MIB + 512 * KIB),
        (2, 7 * MIB, 8 * MIB),  # the last division reaches the next power of two
    ],
)
def test_roundup_power2_divisions(divisions: int, request_bytes: int, block_bytes: int) -> None:
    allocator = CachingAllocator(AllocatorConfig(roundup_power2_divisions=divisions))
    assert allocator.malloc(request_bytes).size_bytes == block_bytes


def test_rounding_can_move_a_request_to_the_large_pool() -> None:
    allocator = CachingAllocator(AllocatorConfig(roundup_power2_divisions=4))
    allocator.malloc(MIB - 1)  # rounds to 1 MiB: small
    assert allocator.reserved_bytes == 2 * MIB
    allocator.malloc(MIB + 1)  # rounds to 1.25 MiB: large
    assert allocator.reserved_bytes == 22 * MIB


def test_large_segment_size_packs_more_into_one_segment() -> None:
    allocator = CachingAllocator(AllocatorConfig(large_segment_bytes=64 * MIB))
    for _ in range(12):  # 12 x 5 MiB fit into one 64 MiB segment; at 20 MiB they would need three
        allocator.malloc(5 * MIB)
    assert allocator.reserved_bytes == 64 * MIB


def test_settings_from_an_environment_string() -> None:
    text = "backend:native, expandable_segments:True,max_split_size_mb:128,roundup_power2_divisions:4,"
    text += "garbage_collection_threshold:0.6,large_segment_size_mb:64,max_non_split_rounding_mb:30"
    assert AllocatorConfig.from_environment_string(text) == AllocatorConfig(
        expandable_segments=True,
        max_split_size_bytes=128 * MIB,
        max_non_split_rounding_bytes=30 * MIB,
        large_segment_bytes=64 * MIB,
        roundup_power2_divisions=4,
        garbage_collection_threshold=0.6,
    )
    assert AllocatorConfig.from_environment_string("") == AllocatorConfig()
    assert AllocatorConfig.from_environment_string("large_segment_size_mb:64").large_segment_bytes == 64 * MIB


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("expandable_segment:True", "'expandable_segment'"),
        ("max_split_size_mb:128,per_process_memory_fraction:0.5", "'per_process_memory_fraction'"),
        ("expandable_segments:true", "'expandable_segments'"),
        ("backend:cudaMallocAsync", "'backend'"),
        ("max_split_size_mb", "'max_split_size_mb'"),
        ("max_split_size_mb:19", "max_split_size_mb"),
        ("max_non_split_rounding_mb:19", "max_non_split_rounding_mb"),
        ("large_segment_size_mb:10", "large_segment_size_mb"),
        ("roundup_power2_divisions:3", "roundup_power2_divisions"),
        ("roundup_power2_divisions:[256:1,512:2]", "'roundup_power2_divisions'"),
        ("garbage_collection_threshold:1.0", "garbage_collection_threshold"),
    ],
)
def test_a_setting_that_is_not_simulated_is_named(text: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        AllocatorConfig.from_environment_string(text)
