"""The allocator's history as events, from entries written by hand."""

from muse_bench.measure.history import HistoryObserver, trace_of
from muse_bench.predict.allocator import AllocatorConfig
from muse_bench.timeline import Label, Op, profile

KIB = 1 << 10


def entry(action, address, size, op):
    return {"action": action, "addr": address, "size": size, "user_metadata": str(op)}


def observed(*sightings):
    """An observer that has seen a step's beginning, an operation forward, one backward, and the clearing."""
    observer = HistoryObserver()
    observer.trace.ops += [Op("before", "", "build"), Op("step", "", "forward"), Op("add", "body", "forward")]
    observer.trace.ops += [Op("mul", "body", "backward"), Op("clear", "", "cleared")]
    observer.trace.steps.append(1)
    observer.sightings += sightings
    return observer


def test_what_was_there_before_the_history_has_its_line_in_the_ledger():
    """A model that was built before its loop is watched: named where it was sighted, and freed like anything else."""
    observer = observed((0, 0x1000, Label("parameters", "body")))
    entries = [entry("alloc", 0x3000, 8 * KIB, 2), entry("free_completed", 0x2000, 4 * KIB, 2)]
    trace = trace_of(observer, entries, clearing=4, earlier=[(0x1000, 16 * KIB), (0x2000, 4 * KIB)])
    found = profile(trace, first_steady_step=0, config=AllocatorConfig())
    assert found.ledger.parameters == 16 * KIB
    assert found.ledger.unattributed == 4 * KIB  # there at the peak, and nobody's
    assert found.ledger.activations_saved == 8 * KIB
    assert found.steady_peak_allocated_bytes == 28 * KIB


def test_an_address_that_is_used_again_is_not_what_it_was():
    observer = observed((0, 0x1000, Label("parameters", "body")))
    entries = [entry("free_completed", 0x1000, 0, 2), entry("alloc", 0x1000, 8 * KIB, 2)]
    trace = trace_of(observer, entries, clearing=4, earlier=[(0x1000, 16 * KIB)])
    found = profile(trace, first_steady_step=0, config=AllocatorConfig())
    assert found.ledger.parameters == 16 * KIB
    assert [label.category for label in trace.labels.values()] == ["parameters"]


def test_what_the_main_thread_frees_after_backward_is_not_freed_before_it():
    """Each thread marks the history with its own last operation, so that the main one's is from before backward.

    The output that `output.sum().backward()` keeps was temporary then, and a gradient that zero_grad frees had no name.
    """
    observer = observed((3, 0x2000, Label("gradients", "body")))
    entries = [
        entry("alloc", 0x1000, 8 * KIB, 2),  # the output
        entry("alloc", 0x2000, 4 * KIB, 3),  # a gradient
        entry("free_completed", 0x1000, 0, 2),
        entry("free_completed", 0x2000, 0, 2),
    ]
    found = profile(trace_of(observer, entries, clearing=4), first_steady_step=0, config=AllocatorConfig())
    assert found.ledger.activations_saved == 8 * KIB
    assert found.ledger.gradients == 4 * KIB
