"""Several streams of one GPU: each has blocks of its own, and the counts are of all together."""

import random

import pytest

from muse_bench.predict.allocator import AllocatorConfig, CachingAllocator
from muse_bench.predict.streams import Streams

KIB, MIB = 1 << 10, 1 << 20
SEGMENT = 2 * MIB  # of small blocks


@pytest.fixture
def streams():
    return Streams(lambda: CachingAllocator(AllocatorConfig()))


def test_a_block_that_a_stream_freed_is_not_taken_by_another(streams):
    """The other stream may still read it: a segment of its own is reserved."""
    streams.malloc(0, 512 * KIB, stream=0)
    streams.free(0)
    streams.malloc(1, 512 * KIB, stream=7)
    assert (streams.allocated_bytes, streams.peak_reserved_bytes) == (512 * KIB, 2 * SEGMENT)
    streams.malloc(2, 512 * KIB, stream=0)  # its own, which it takes again
    assert (streams.allocated_bytes, streams.peak_reserved_bytes) == (MIB, 2 * SEGMENT)


def test_a_block_goes_back_to_the_stream_that_took_it(streams):
    """Whatever stream runs when it is freed."""
    streams.malloc(0, 16 * MIB, stream=1)
    streams.malloc(1, 16 * MIB, stream=2)
    streams.free(0)
    streams.malloc(2, 16 * MIB, stream=1)
    assert streams.peak_reserved_bytes == 32 * MIB


def test_one_stream_is_one_allocator(streams):
    """At each of some random steps."""
    chance, alone, blocks = random.Random(0), CachingAllocator(AllocatorConfig()), {}
    for key in range(2_000):
        if blocks and chance.random() < 0.5:
            freed = chance.choice(list(blocks))
            alone.free(blocks.pop(freed))
            streams.free(freed)
        else:
            size = chance.randrange(1, 30 * MIB)
            blocks[key] = alone.malloc(size)
            assert streams.malloc(key, size, stream=0) == blocks[key].size_bytes
        assert streams.allocated_bytes == alone.allocated_bytes
        assert streams.peak_reserved_bytes == alone.peak_reserved_bytes


def test_the_peak_is_that_of_all_together_from_its_reset_on(streams):
    """Not the sum of the streams' own peaks, which need not be at one time."""
    streams.malloc(0, 40 * MIB, stream=1)
    streams.malloc(1, 60 * MIB, stream=2)
    assert streams.peak_reserved_bytes == streams.allocated_bytes == 100 * MIB
    streams.free(1)
    streams.reset_peak()
    assert (streams.allocated_bytes, streams.peak_reserved_bytes) == (40 * MIB, 100 * MIB)  # freed is still reserved
    streams.malloc(2, 20 * MIB, stream=1)
    assert streams.peak_reserved_bytes == 120 * MIB
