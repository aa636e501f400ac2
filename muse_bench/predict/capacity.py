"""The least memory in which a step still runs: a bisection, and what it tries where nothing can be run. No torch.

With less than it would reserve, PyTorch's allocator returns its cache and tries again before it gives up; the
simulator does the same, so a step may run in less than its reserved peak, and never in less than it allocates.
"""

from collections.abc import Callable

from muse_bench.predict.allocator import AllocatorConfig, CachingAllocator, OutOfMemory
from muse_bench.predict.driver import DriverAddresses
from muse_bench.timeline import Trace
from muse_bench.units import MIB

STEP_BYTES = 16 * MIB


def smallest_that_runs(runs: Callable[[int], bool], low: int, high: int, step: int = STEP_BYTES) -> int:
    """A size in bytes that runs, at most `step` above one that does not; `high` runs and `low` is too little.

    Takes it that what runs in a size runs in any larger one.
    """
    while high - low > step:
        middle = (low + high) // 2
        if runs(middle):
            high = middle
        else:
            low = middle
    return high


def smallest_capacity_bytes(trace: Trace, config: AllocatorConfig) -> int:
    """The least the allocator may have for the whole trace, its building included, to 16 MiB above the truth."""
    unlimited = _replay(trace, config, None)
    # Below the allocated peak nothing runs; at it something may, and then the answer is within a step of it anyway.
    return smallest_that_runs(
        lambda capacity: runs_within(trace, config, capacity),
        low=unlimited.peak_allocated_bytes,
        high=unlimited.peak_reserved_bytes,
    )


def runs_within(trace: Trace, config: AllocatorConfig, capacity_bytes: int) -> bool:
    """Whether the trace's allocations all succeed when the allocator can have no more than this."""
    try:
        _replay(trace, config, capacity_bytes)
    except OutOfMemory:
        return False
    return True


def _replay(trace: Trace, config: AllocatorConfig, capacity_bytes: int | None) -> CachingAllocator:
    driver = DriverAddresses(trace.segments)
    allocator = CachingAllocator(
        config, capacity_bytes=capacity_bytes, segment_address=driver.take, segment_removed=driver.give_back
    )
    blocks = {}
    for event in trace.events:
        if event.is_alloc:
            blocks[event.key] = allocator.malloc(event.size_bytes)
        else:
            allocator.free(blocks.pop(event.key))
    return allocator
