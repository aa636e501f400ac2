"""How fast one implementation is on the CUDA device of this process, and what memory it takes.

Device time comes from CUDA events around batches of calls. Each batch is launched while the device still waits, so
that the events see the kernels alone and not how fast Python launches them; the wall clock sees both. Inputs rotate
over copies, and what calls return is kept for a while, until each amounts to twice the L2 cache: no call finds its
inputs there, nor the memory that it writes.
"""

import collections
import gc
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from muse_bench.kernel_bench.benchmark import Contender, S
from muse_bench.kernel_bench.tensors import Call, TensorMaker, written_bytes

BATCHES = 20
WALL_BATCHES = 5
WARM_UP_CALLS = 3
BATCH_SECONDS = 2e-3  # events resolve half a microsecond
LONGEST_BATCH = 64
MOST_COPIES = 64
LONGEST_WAIT_SECONDS = 0.1
CACHES = 2  # what rotates amounts to this many times the L2 cache


@dataclass(frozen=True, slots=True)
class Seconds:
    """Medians for one call: on the device, and by the wall clock."""

    device: float
    wall: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one call forward and backward: the peak beyond its inputs, and what it returned."""

    peak_bytes: int
    written_bytes: int


def copies_needed(item_bytes: int, cache_bytes: int) -> int:
    """How many copies of this many bytes exceed the cache by far; at least 1, at most MOST_COPIES."""
    return max(1, min(MOST_COPIES, math.ceil(CACHES * cache_bytes / max(1, item_bytes))))


def batch_length(seconds: float) -> int:
    """How many calls of this duration make a batch long enough for the events' resolution."""
    return max(1, min(LONGEST_BATCH, math.ceil(BATCH_SECONDS / max(seconds, 1e-9))))


class Bench:
    """One implementation of a case, its inputs in copies, on the current CUDA device."""

    def __init__(
        self, contender: Contender[S], sizes: S, inputs: Callable[[S, TensorMaker], tuple[object, ...]]
    ) -> None:
        device = torch.device("cuda", torch.cuda.current_device())
        properties = torch.cuda.get_device_properties(device)
        self._cache_bytes, self._clock_hertz = properties.L2_cache_size, _clock_hertz(properties)
        operation = contender.load(sizes)
        first = Call(operation, inputs(sizes, TensorMaker(device, sizes.dtype)))
        copies = copies_needed(first.input_bytes, self._cache_bytes)
        makers = (TensorMaker(device, sizes.dtype, seed) for seed in range(1, copies))
        self._calls = [first, *(Call(operation, inputs(sizes, maker)) for maker in makers)]

    def forward(self) -> Seconds:
        """One pass, with no gradient to follow."""
        return self._time([call.forward for call in self._calls])

    def forward_backward(self) -> Seconds:
        """Both passes."""
        return self._time([call.forward_backward for call in self._calls])

    def memory(self) -> Memory:
        """Of both passes, after they have run before."""
        call = self._calls[0]
        returned = written_bytes(call.forward_backward())
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call.forward_backward()
        torch.cuda.synchronize()
        return Memory(torch.cuda.max_memory_allocated() - before, returned)

    def _time(self, runs: list[Callable[[], list[Tensor]]]) -> Seconds:
        for run in runs[:WARM_UP_CALLS]:
            returned = run()
        keep = copies_needed(written_bytes(returned), self._cache_bytes)
        kept: collections.deque[list[Tensor]] = collections.deque(maxlen=keep)
        turn = 0

        def batch(length: int) -> None:
            nonlocal turn
            for _ in range(length):
                kept.append(runs[turn % len(runs)]())
                turn += 1

        batch(max(WARM_UP_CALLS, len(runs)))  # every copy once: its gradients are made, its memory is cached
        _, roughly = _launch_and_device_seconds(batch, WARM_UP_CALLS, wait_cycles=0)
        length = batch_length(roughly / WARM_UP_CALLS)
        launch, _ = _launch_and_device_seconds(batch, length, wait_cycles=0)
        wait = int(min(LONGEST_WAIT_SECONDS, launch * 1.5) * self._clock_hertz)
        gc.disable()
        try:
            device = [_launch_and_device_seconds(batch, length, wait)[1] / length for _ in range(BATCHES)]
            wall = [_wall_seconds(batch, length) / length for _ in range(WALL_BATCHES)]
        finally:
            gc.enable()
        return Seconds(statistics.median(device), statistics.median(wall))


def _launch_and_device_seconds(batch: Callable[[int], None], length: int, wait_cycles: int) -> tuple[float, float]:
    """How long the launches of a batch take here, and how long the device then works on them."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    if wait_cycles:
        torch.cuda._sleep(wait_cycles)
    start.record()
    begun = time.perf_counter()
    batch(length)
    launched = time.perf_counter() - begun
    end.record()
    end.synchronize()
    return launched, start.elapsed_time(end) / 1_000


def _wall_seconds(batch: Callable[[int], None], length: int) -> float:
    torch.cuda.synchronize()
    begun = time.perf_counter()
    batch(length)
    torch.cuda.synchronize()
    return time.perf_counter() - begun


def _clock_hertz(properties: object) -> float:
    """The rate of the device's clock, in which it is told to wait; 2 GHz where torch does not say."""
    return float(getattr(properties, "clock_rate", 2_000_000)) * 1_000  # in kHz
