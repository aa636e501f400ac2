"""From allocation events to peaks, ledger, modules and timeline: hand-made traces, and what holds for all of them."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muse_bench.ledger import LEDGER_FIELDS, Ledger
from muse_bench.predict.allocator import AllocatorConfig, CachingAllocator, OutOfMemory
from muse_bench.timeline import TIMELINE_POINTS, Event, Label, Op, Trace, captured_reserved_bytes, profile

MIB = 1 << 20
CONFIG = AllocatorConfig()


class Script:
    """Writes a trace as a run would: operations, and what each allocates and frees."""

    def __init__(self):
        self.trace = Trace()
        self.op("build")

    def op(self, phase, module="", name="op"):
        self.trace.ops.append(Op(name, module, phase))
        return self

    def step(self):
        self.op("forward", name="step")
        self.trace.steps.append(len(self.trace.ops) - 1)
        return self

    def alloc(self, key, size_bytes, label=None):
        self.trace.events.append(Event(True, key, size_bytes, len(self.trace.ops) - 1))
        if label is not None:
            self.trace.labels[key] = label
        return self

    def free(self, *keys):
        for key in keys:
            self.trace.events.append(Event(False, key, 0, len(self.trace.ops) - 1))
        return self

    def profile(self, first_steady_step=0, **options):
        return profile(self.trace, first_steady_step=first_steady_step, config=CONFIG, **options)


def categories_of(found):
    """The categories that hold anything, with their bytes."""
    return {name: size for name, size in dataclasses.asdict(found.ledger).items() if size}


WEIGHT = Label("parameters", "head")


# --- peaks


def test_the_cold_peak_is_of_the_first_step_and_the_steady_one_of_the_rest():
    """A first step that tunes its kernels needs 5 MiB more, the second 3."""
    script = Script().alloc(0, 2 * MIB, WEIGHT)
    script.step().op("forward").alloc(1, 5 * MIB).free(1)
    script.step().op("forward").alloc(2, 3 * MIB).free(2)
    script.step().op("forward").alloc(3, 1 * MIB).free(3)
    found = script.profile(first_steady_step=1)
    assert found.cold_peak_allocated_bytes == 7 * MIB
    assert found.steady_peak_allocated_bytes == 5 * MIB
    assert script.profile(first_steady_step=2).steady_peak_allocated_bytes == 3 * MIB
    assert script.profile(first_steady_step=0).steady_peak_allocated_bytes == 7 * MIB


def test_state_that_the_first_step_leaves_counts_from_the_second_on():
    script = Script().alloc(0, 2 * MIB, WEIGHT)
    script.step().op("forward").alloc(1, 3 * MIB).free(1)
    script.op("optimizer").alloc(2, 4 * MIB, Label("optimizer_state", "head"))
    script.step().op("forward").alloc(3, 3 * MIB).free(3)
    found = script.profile(first_steady_step=1)
    assert found.cold_peak_allocated_bytes == 6 * MIB
    assert found.steady_peak_allocated_bytes == 9 * MIB
    assert categories_of(found) == {
        "parameters": 2 * MIB,
        "optimizer_state": 4 * MIB,
        "activations_temporary": 3 * MIB,
    }


def test_what_building_took_counts_in_reserved_alone_as_long_as_it_is_cached():
    """Peaks are reset before the first step: freed blocks are no longer allocated, but their segments remain."""
    script = Script().alloc(0, 2 * MIB, WEIGHT).alloc(1, 30 * MIB).free(1)
    script.step().op("forward").alloc(2, 1 * MIB).free(2)
    found = script.profile()
    assert found.cold_peak_allocated_bytes == found.steady_peak_allocated_bytes == 3 * MIB
    assert found.peak_reserved_bytes == (20 + 30 + 2) * MIB


def test_a_step_that_allocates_nothing_peaks_where_it_begins():
    script = Script().alloc(0, 2 * MIB, WEIGHT)
    script.step().op("forward").step().op("forward")
    found = script.profile(first_steady_step=1)
    assert found.cold_peak_allocated_bytes == found.steady_peak_allocated_bytes == 2 * MIB
    assert [point.ledger for point in found.timeline] == [Ledger(parameters=2 * MIB)]


def test_sizes_are_those_of_blocks():
    """5 bytes take 512, and 19.5 MiB in a segment of 20 take all of it: so the parts add up to `allocated`."""
    script = Script().alloc(0, 5, WEIGHT)
    script.step().op("forward").alloc(1, 19 * MIB + MIB // 2)
    found = script.profile()
    assert categories_of(found) == {"parameters": 512, "activations_temporary": 20 * MIB}
    assert found.steady_peak_allocated_bytes == 20 * MIB + 512


def test_an_empty_trace_is_all_zeros():
    for trace in (Trace(), Trace(ops=[Op("step", "", "forward")], steps=[0])):
        found = profile(trace, first_steady_step=0, config=CONFIG)
        assert found.steady_peak_allocated_bytes == found.peak_reserved_bytes == found.ledger.total == 0
        assert found.modules == found.timeline == ()


def test_a_trace_that_does_not_fit_says_so():
    script = Script().alloc(0, 30 * MIB, WEIGHT).step().op("forward").alloc(1, 30 * MIB)
    assert script.profile(capacity_bytes=60 * MIB).steady_peak_allocated_bytes == 60 * MIB
    with pytest.raises(OutOfMemory):
        script.profile(capacity_bytes=59 * MIB)


# --- categories


# Of one allocation: where it is born, where it dies, what it is at the peak.
LIFETIMES = [
    ("forward", "forward", "activations_temporary"),
    ("forward", "last forward", "activations_temporary"),
    ("forward", "first backward", "activations_saved"),
    ("forward", "backward", "activations_saved"),
    ("forward", "optimizer", "activations_saved"),
    ("forward", None, "activations_saved"),
    ("last forward", "first backward", "activations_saved"),
    ("first backward", "backward", "activations_temporary"),
    ("backward", None, "activations_temporary"),
    ("optimizer", None, "activations_temporary"),
    ("build", None, "unattributed"),
]


@pytest.mark.parametrize(("born", "dies", "category"), LIFETIMES)
def test_what_has_no_label_is_judged_by_its_lifetime(born, dies, category):
    """Saved for backward: made by a forward pass, and still alive when the first operation of its backward runs."""
    script, size = Script(), 1 * MIB
    for place in ("build", "step", "forward", "last forward", "first backward", "backward", "optimizer"):
        if place == "step":
            script.step()
        elif place != "build":
            script.op(place.split()[-1], module=f"at {place}")
        if place == born:
            script.alloc(0, size)
            script.alloc(1, 8 * MIB, Label("workspace", "")).free(1)  # the peak, at which the allocation is alive
        if place == dies:
            script.free(0)
    found = script.profile()
    peak = {} if born == "build" else {"workspace": 8 * MIB}  # peaks are looked for in steps
    assert categories_of(found) == {category: size, **peak}
    row = next(row for row in found.modules if getattr(row.ledger, category))
    assert row.module == ("(outside any module)" if born == "build" else f"at {born}")


def test_a_micro_batch_saves_for_its_own_backward():
    """The second forward comes after a backward; what it leaves for the second backward is saved all the same."""
    script = Script().step()
    for key in (0, 1):
        script.op("forward").alloc(key, (1 + key) * MIB)
        script.op("backward").alloc(10 + key, 1 * MIB).free(key, 10 + key)
    assert categories_of(script.profile()) == {"activations_saved": 2 * MIB, "activations_temporary": 1 * MIB}


def test_without_a_backward_nothing_is_saved():
    script = Script().step().op("forward").alloc(0, 3 * MIB).step().op("forward").alloc(1, 1 * MIB)
    assert categories_of(script.profile(first_steady_step=1)) == {"activations_temporary": 4 * MIB}


def test_a_label_says_more_than_a_lifetime():
    script = Script().step().op("forward", module="blocks.0")
    script.alloc(0, 1 * MIB, Label("workspace", "(libraries)")).op("backward").alloc(1, 1 * MIB, WEIGHT)
    found = script.profile()
    assert categories_of(found) == {"workspace": 1 * MIB, "parameters": 1 * MIB}
    assert {row.module for row in found.modules} == {"(libraries)", "head"}


def test_modules_come_largest_first():
    script = Script().step()
    for key, module in enumerate(("a", "b", "c", "b")):
        script.op("forward", module=module).alloc(key, (1 + key) * MIB)
    assert [(row.module, row.ledger.total) for row in script.profile().modules] == [
        ("b", 6 * MIB),
        ("c", 3 * MIB),
        ("a", 1 * MIB),
    ]


# --- the timeline


def test_the_timeline_is_of_the_step_that_peaks():
    script = Script().alloc(0, 2 * MIB, WEIGHT)
    script.step().op("forward").alloc(1, 3 * MIB).op("backward").alloc(2, 1 * MIB).free(1, 2)
    script.step().op("forward").alloc(3, 9 * MIB).op("backward").alloc(4, 1 * MIB).free(3, 4)
    script.step().op("forward").alloc(5, 3 * MIB).op("backward").alloc(6, 1 * MIB).free(5, 6)
    found = script.profile(first_steady_step=1)
    assert [(point.phase, point.ledger.total // MIB) for point in found.timeline] == [
        ("forward", 11),
        ("backward", 12),
        ("backward", 3),
        ("backward", 2),
    ]
    assert found.timeline[1].ledger == found.ledger


@pytest.mark.parametrize("place", [0, 1, 499, 777, 998, 999])
def test_a_long_step_is_thinned_but_never_of_its_peak(place):
    """The spike is one event among 2,000 that would mostly be skipped."""
    script = Script().alloc(0, 2 * MIB, WEIGHT).step()
    for index in range(1_000):
        script.op("forward").alloc(index + 1, 8 * MIB if index == place else 512).free(index + 1)
    found = script.profile()
    assert len(found.timeline) <= TIMELINE_POINTS
    assert len(found.timeline) > TIMELINE_POINTS // 2
    assert max(point.ledger.total for point in found.timeline) == found.steady_peak_allocated_bytes == 10 * MIB


# --- what holds for every trace


@st.composite
def traces(draw):
    """A valid trace: parameters, then steps of forward, backward and optimizer operations that allocate and free."""
    script, live, key = Script(), [], 0
    sizes = st.one_of(st.integers(0, 4_096), st.integers(0, 40 * MIB))
    labels = st.one_of(st.none(), st.builds(Label, st.sampled_from(LEDGER_FIELDS), st.sampled_from(["", "a", "b.c"])))

    def act():
        nonlocal key
        for _ in range(draw(st.integers(0, 3))):
            if live and draw(st.booleans()):
                script.free(live.pop(draw(st.integers(0, len(live) - 1))))
            else:
                script.alloc(key, draw(sizes), draw(labels))
                live.append(key)
                key += 1

    script.alloc(-1, 512, WEIGHT)
    act()
    for _ in range(draw(st.integers(1, 3))):
        script.step()
        for phase in draw(st.lists(st.sampled_from(["forward", "backward", "optimizer"]), max_size=6)):
            script.op(phase, draw(st.sampled_from(["", "a", "b.c"])))
            act()
    return script.trace


def levels_of(trace):
    """Allocated bytes after each event, by the allocator alone."""
    allocator, blocks, levels = CachingAllocator(CONFIG), {}, []
    for event in trace.events:
        if event.is_alloc:
            blocks[event.key] = allocator.malloc(event.size_bytes)
        else:
            allocator.free(blocks.pop(event.key))
        levels.append(allocator.allocated_bytes)
    return levels


@settings(max_examples=120, deadline=None)
@given(traces(), st.integers(0, 2))
def test_the_ledger_of_every_trace_closes_to_its_peak(trace, first_steady_step):
    """Every byte of the peak has one name and one module, and the peaks are those of the allocator."""
    found = profile(trace, first_steady_step=first_steady_step, config=CONFIG)
    assert found.ledger.total == found.steady_peak_allocated_bytes
    for name in LEDGER_FIELDS:
        assert sum(getattr(row.ledger, name) for row in found.modules) == getattr(found.ledger, name)

    levels = levels_of(trace)
    begins = trace.steps[min(first_steady_step, len(trace.steps) - 1)]
    steady = [level for level, event in zip(levels, trace.events, strict=True) if event.op >= begins]
    before = [level for level, event in zip(levels, trace.events, strict=True) if event.op < begins]
    assert found.steady_peak_allocated_bytes == max([before[-1], *steady])
    assert found.peak_reserved_bytes >= max(found.steady_peak_allocated_bytes, found.cold_peak_allocated_bytes)


@settings(max_examples=120, deadline=None)
@given(traces(), st.integers(0, 2))
def test_the_timeline_of_every_trace_holds_its_peak(trace, first_steady_step):
    found = profile(trace, first_steady_step=first_steady_step, config=CONFIG)
    assert found.ledger in [point.ledger for point in found.timeline]
    assert min(min(dataclasses.astuple(point.ledger)) for point in found.timeline) >= 0
    assert len(found.timeline) <= TIMELINE_POINTS


def test_captured_steps_have_memory_of_their_own() -> None:
    """The steps' stream and the graph do not share what the building of the model took."""
    mib = 1 << 20
    trace = Trace(ops=[Op("build", "", "build"), *[Op("step", "", "forward")] * 2], steps=[1, 2])
    trace.events = [
        Event(True, 0, 3 * mib, 0),
        Event(True, 1, 4 * mib, 1), Event(True, 2, 1 * mib, 1), Event(False, 1, 4 * mib, 1),
        Event(True, 3, 4 * mib, 2), Event(False, 3, 4 * mib, 2),
    ]  # fmt: skip
    eager = captured_reserved_bytes(trace, AllocatorConfig(), captures=False)
    captured = captured_reserved_bytes(trace, AllocatorConfig(), captures=True)
    # 20 MiB for the model, 20 and 2 for the stream; the capture gives the stream's 20 back and takes 20 of its own.
    assert (eager, captured) == (42 * mib, 42 * mib)
    trace.events.insert(2, Event(True, 9, 4 * mib, 1))  # kept, in the stream's large segment, which then stays
    assert captured_reserved_bytes(trace, AllocatorConfig(), captures=True) == 62 * mib
