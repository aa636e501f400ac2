"""From allocation events to peaks, a ledger that closes, a per-module table and a timeline. Imports no torch.

A `Trace` is what one run did, wherever it came from: predicted on `meta` tensors, or recorded on a GPU. Replaying it
through the allocator gives every block its real size, so the parts of the ledger add up to the allocated bytes.
"""

import bisect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from muse_bench import scopes
from muse_bench.ledger import LEDGER_FIELDS, Ledger, ModuleRow, TimelinePoint
from muse_bench.predict.allocator import AllocatorConfig, CachingAllocator
from muse_bench.predict.block_pool import Block
from muse_bench.predict.driver import DriverAddresses
from muse_bench.predict.streams import Streams

TIMELINE_POINTS = 240


class Op(NamedTuple):
    """One operation: its name, the part of the model it belongs to, and build, forward, backward or optimizer."""

    name: str
    module: str
    phase: str


class Event(NamedTuple):
    """An allocation (`is_alloc`) or the end of one, during the operation with index `op`, on a stream."""

    is_alloc: bool
    key: int
    size_bytes: int
    op: int
    stream: int = 0


class Label(NamedTuple):
    """What an allocation is known to be: a ledger category, and the module that owns it."""

    category: str
    module: str


@dataclass(slots=True)
class Trace:
    """Operations and allocation events of one run in order; `steps` holds the op index at which each step begins.

    `labels` names allocations by key; what has no label is judged by its lifetime. `segments` holds the (address,
    size) of each segment that a recorded run took, in order; it is empty for a prediction. `libraries_bytes` is what a
    prediction expects libraries to take outside the allocator. `places` says where the modules' classes stand.
    """

    ops: list[Op] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    labels: dict[int, Label] = field(default_factory=dict)
    steps: list[int] = field(default_factory=list)
    segments: list[tuple[int, int]] = field(default_factory=list)
    libraries_bytes: int = 0
    places: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Profile:
    """What a trace amounts to, all in bytes. The ledger is that of the instant of the steady peak."""

    cold_peak_allocated_bytes: int
    steady_peak_allocated_bytes: int
    peak_reserved_bytes: int
    ledger: Ledger
    modules: tuple[ModuleRow, ...]
    timeline: tuple[TimelinePoint, ...]


class _Live(NamedTuple):
    size_bytes: int
    category: str
    module: str


def profile(
    trace: Trace, *, first_steady_step: int, config: AllocatorConfig, capacity_bytes: int | None = None
) -> Profile:
    """Replays the trace and reads off its peaks; the steady peak is the largest from `first_steady_step` on.

    Raises: OutOfMemory (from the allocator) when the trace does not fit capacity_bytes.
    """
    driver = DriverAddresses(trace.segments)
    streams = Streams(
        lambda: CachingAllocator(
            config, capacity_bytes=capacity_bytes, segment_address=driver.take, segment_removed=driver.give_back
        )
    )
    sizes: dict[int, int] = {}
    levels: list[int] = []
    starts = [bisect.bisect_left(trace.events, op, key=lambda event: event.op) for op in trace.steps]
    reserved_from = starts[0] if starts else 0
    for index, event in enumerate(trace.events):
        if index == reserved_from:
            streams.reset_peak()
        if event.is_alloc:
            sizes[index] = streams.malloc(event.key, event.size_bytes, event.stream)
        else:
            streams.free(event.key)
        levels.append(streams.allocated_bytes)
    if not levels:
        empty = Ledger()
        return Profile(0, 0, 0, empty, (), ())
    begin = starts[min(first_steady_step, len(starts) - 1)]
    peak = _argmax(levels, max(begin - 1, 0), len(levels))
    cold_end = starts[1] if len(starts) > 1 else len(levels)
    cold = _argmax(levels, max(starts[0] - 1, 0), cold_end)
    step = bisect.bisect_right(starts, peak) - 1
    span = (starts[step], starts[step + 1] if step + 1 < len(starts) else len(levels))
    categories = _categories(trace)
    live = _live_at(trace, sizes, categories, peak)
    return Profile(
        cold_peak_allocated_bytes=levels[cold],
        steady_peak_allocated_bytes=levels[peak],
        peak_reserved_bytes=streams.peak_reserved_bytes,
        ledger=_sum(live),
        modules=_by_module(live, trace.places),
        timeline=_timeline(trace, sizes, categories, span, peak),
    )


def captured_reserved_bytes(trace: Trace, config: AllocatorConfig, *, captures: bool) -> int:
    """The most reserved when the steps run on a stream of their own and, with `captures`, the last one is captured.

    Each stream has blocks of its own, and so has a graph. What is cached is given back before the capture, save
    segments that still hold something.
    """
    starts = [bisect.bisect_left(trace.events, op, key=lambda event: event.op) for op in trace.steps]
    if not starts:
        return 0
    building, stepping, graph = (CachingAllocator(config) for _ in range(3))
    blocks: dict[int, tuple[CachingAllocator, Block]] = {}
    most = 0
    for index, event in enumerate(trace.events):
        if event.is_alloc:
            allocator = building if index < starts[0] else stepping
            blocks[event.key] = allocator, allocator.malloc(event.size_bytes)
        else:
            allocator, block = blocks.pop(event.key)
            allocator.free(block)
        if index >= starts[0]:
            most = max(most, building.reserved_bytes + stepping.reserved_bytes)
    if not captures:
        return most
    building.empty_cache()
    stepping.empty_cache()
    own: dict[int, Block] = {}
    for event in trace.events[starts[-1] :]:
        if event.is_alloc:
            own[event.key] = graph.malloc(event.size_bytes)
        elif event.key in own:
            graph.free(own.pop(event.key))
    return max(most, building.reserved_bytes + stepping.reserved_bytes + graph.peak_reserved_bytes)


def _argmax(levels: list[int], begin: int, end: int) -> int:
    return max(range(begin, end), key=levels.__getitem__)


def _categories(trace: Trace) -> dict[int, Label]:
    """The category and module of every allocation, by the index of its event.

    Unlabelled memory of collectives is communication; other that a forward pass leaves alive when its backward begins
    is saved for backward; all else that a step allocates is temporary; what was there before is unattributed.
    """
    backward_starts = [
        op for op in range(1, len(trace.ops)) if trace.ops[op].phase == "backward" != trace.ops[op - 1].phase
    ]
    ends = {event.key: event.op for event in trace.events if not event.is_alloc}
    found: dict[int, Label] = {}
    for index, event in enumerate(trace.events):
        if not event.is_alloc:
            continue
        op = trace.ops[event.op]
        if (label := trace.labels.get(event.key)) is not None:
            found[index] = label
        elif op.module == scopes.COMMUNICATION:
            found[index] = Label("communication", op.module)
        elif op.phase == "build":
            found[index] = Label("unattributed", op.module)
        else:
            end = ends.get(event.key, len(trace.ops))
            following = bisect.bisect_left(backward_starts, event.op)
            crosses = op.phase == "forward" and following < len(backward_starts) and backward_starts[following] <= end
            found[index] = Label("activations_saved" if crosses else "activations_temporary", op.module)
    return found


def _live_at(trace: Trace, sizes: dict[int, int], categories: dict[int, Label], peak: int) -> list[_Live]:
    live: dict[int, _Live] = {}
    for index, event in enumerate(trace.events[: peak + 1]):
        if event.is_alloc:
            live[event.key] = _Live(sizes[index], *categories[index])
        else:
            live.pop(event.key)
    return list(live.values())


def _sum(live: Iterable[_Live]) -> Ledger:
    totals = dict.fromkeys(LEDGER_FIELDS, 0)
    for one in live:
        totals[one.category] += one.size_bytes
    return Ledger(**totals)


def _by_module(live: Iterable[_Live], places: Mapping[str, str]) -> tuple[ModuleRow, ...]:
    groups: dict[str, list[_Live]] = {}
    for one in live:
        groups.setdefault(one.module, []).append(one)
    rows = [
        ModuleRow(module=module or "(outside any module)", ledger=_sum(group), source=places.get(module))
        for module, group in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: -row.ledger.total))


def _timeline(
    trace: Trace, sizes: dict[int, int], categories: dict[int, Label], span: tuple[int, int], peak: int
) -> tuple[TimelinePoint, ...]:
    """At most TIMELINE_POINTS moments of the step, evenly spaced in events, the peak always among them."""
    begin, end = span
    stride = max(1, -(-(end - begin) // (TIMELINE_POINTS - 1)))
    moments = {*range(begin, end, stride), min(max(peak, begin), end - 1)}
    running = dict.fromkeys(LEDGER_FIELDS, 0)
    held: dict[int, tuple[str, int]] = {}
    points: list[TimelinePoint] = []
    for index, event in enumerate(trace.events[:end]):
        if event.is_alloc:
            category = categories[index].category
            held[event.key] = (category, sizes[index])
            running[category] += sizes[index]
        else:
            category, size = held.pop(event.key)
            running[category] -= size
        if index in moments:
            points.append(TimelinePoint(phase=trace.ops[event.op].phase, ledger=Ledger(**running)))
    return tuple(points)
