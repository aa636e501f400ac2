"""A run's recorded memory history, turned into events that replay it on the simulated allocator.

The history is what `torch.cuda.memory._record_memory_history()` kept and `torch.cuda.memory._snapshot()`
returns as "device_traces", one list a device. The replay is exact, block by block, when recording began
before the first allocation (or while nothing was reserved) and lost no entry, within three limits.
`allocated` falls when a free completes, which is later than upstream for a block that another stream still
used. A return of cached memory is replayed as `empty_cache`, which is more than upstream returns under
max_split_size or by garbage collection. Pages that expandable segments mapped for a request that then failed
are not replayed.

Source: pytorch, c10/cuda/CUDACachingAllocator.cpp (record_trace and its callers).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from muse_bench.predict.allocator import Event


@dataclass(frozen=True, slots=True)
class RecordedHistory:
    """The events of a run, and the (address, size in bytes) of each segment it took, in order."""

    events: tuple[Event, ...]
    segments: tuple[tuple[int, int], ...]

    def segment_address(self) -> Callable[[int], int]:
        """The recorded addresses one after the other, for one CachingAllocator without expandable segments.

        Raises: ValueError, when called, where the replay asks for another segment than the run did.
        """
        remaining = iter(self.segments)

        def next_address(size_bytes: int) -> int:
            address, recorded_bytes = next(remaining, (0, 0))
            if size_bytes != recorded_bytes:
                raise ValueError(f"the replay asks for {size_bytes} bytes, the run for {recorded_bytes}")
            return address

        return next_address


def recorded_events(trace: Iterable[Mapping[str, Any]]) -> RecordedHistory:
    """The history's entries as events; blocks that were allocated before recording began are left out.

    Sizes are those requested, for that is what the entries hold.
    Raises: ValueError on an unknown action, and on allocations from several streams or from a private pool.
    """
    events: list[Event] = []
    segments: list[tuple[int, int]] = []
    live: dict[int, int] = {}  # keys by address
    key = 0
    for entry in _of_one_stream(trace):
        action = entry["action"]
        if action == "alloc":
            live[entry["addr"]] = key
            events.append(Event("alloc", key, entry["size"]))
            key += 1
        elif action == "free_completed" and entry["addr"] in live:
            events.append(Event("free", live.pop(entry["addr"])))
        elif action == "segment_alloc":
            segments.append((entry["addr"], entry["size"]))
        elif action in _RETURNS and not (events and events[-1].kind == "empty_cache"):
            events.append(Event("empty_cache"))
    return RecordedHistory(tuple(events), tuple(segments))


_RETURNS = {"segment_free", "segment_unmap"}
_ACTIONS = _RETURNS | {
    *("alloc", "free_requested", "free_completed", "segment_alloc", "segment_map", "snapshot", "oom")
}


def _of_one_stream(trace: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    """The entries, checked to be of a kind that the simulation covers."""
    streams = set()
    for entry in trace:
        if entry["action"] not in _ACTIONS:
            raise ValueError(f"unknown action '{entry['action']}' in a memory history")
        if entry["action"] == "alloc":
            streams.add(entry["stream"])
            if len(streams) > 1:
                raise ValueError("the history has allocations from several streams; the simulation has one")
            if tuple(entry.get("pool_id", (0, 0))) != (0, 0):
                raise ValueError(f"the history has allocations from private pool {entry['pool_id']}")
        yield entry
