"""Which of several runs stands for all, and what varies between them."""

import dataclasses

import pytest

from muse_bench.analysis.repeats import merge_repeats, spreads
from muse_bench.ledger import Ledger

MIB = 1 << 20


def test_the_run_that_took_most_stands_for_all(make_record):
    sizes = (300, 302, 301)
    (merged,) = merge_repeats([make_record(peak_allocated_bytes=size * MIB) for size in sizes])
    assert merged.peak_allocated_bytes == 302 * MIB
    assert [one.peak_allocated_bytes for one in merged.repeats] == [size * MIB for size in sizes]


def test_of_equal_peaks_the_largest_device_stands_for_all(make_record):
    """The verdict is about the device, and must not depend on which run came first."""
    (merged,) = merge_repeats([make_record(device_peak_bytes=size) for size in (7, 9, 8)])
    assert merged.device_peak_bytes == 9


@pytest.mark.parametrize("status", ["oom", "crashed"])
def test_a_run_that_failed_is_never_hidden_by_those_that_did_not(make_record, status):
    failed = make_record(status=status, reason="it was too much", peak_allocated_bytes=None, ledger=None)
    (merged,) = merge_repeats([make_record(), failed, make_record()])
    assert (merged.status, merged.reason) == (status, "it was too much")
    assert [one.status for one in merged.repeats] == ["ok", status, "ok"]


def test_each_case_has_its_own_runs_of_which_any_may_lack_some(make_record):
    """Several GPUs finish them in no order."""
    names = ("a", "b", "a", "c", "b")
    merged = merge_repeats([make_record(name) for name in names])
    assert [(one.model, len(one.repeats)) for one in merged] == [("a", 2), ("b", 2), ("c", 0)]


def test_one_run_is_left_as_it_is(make_record):
    record = make_record(notes=("a note",))
    assert merge_repeats([record]) == (record,)
    assert spreads(record) == ()


def test_notes_of_all_runs_are_kept_once_and_durations_add_up(make_record):
    runs = [make_record(notes=notes, duration_seconds=1.5) for notes in (("same", "first"), ("same",), ("last",))]
    (merged,) = merge_repeats(runs)
    assert merged.notes == ("same", "first", "last")
    assert merged.duration_seconds == 4.5


def test_a_spread_is_taken_over_the_runs_that_have_the_figure(make_record):
    runs = [make_record(device_peak_bytes=size) for size in (5, None, 8)]
    found = {one.figure: one for one in spreads(merge_repeats(runs)[0])}
    device = found["device_peak_bytes"]
    assert (device.least, device.most, device.runs, device.varies) == (5, 8, 2, True)
    assert not found["peak_allocated_bytes"].varies
    assert "step_time_seconds" not in found


def test_lines_of_the_ledger_that_make_up_for_one_another_are_seen(make_record):
    record = make_record(ledger=Ledger(parameters=5, unattributed=2))
    other = dataclasses.replace(record, ledger=Ledger(parameters=5, activations_temporary=1, unattributed=1))
    varied = [one.figure for one in spreads(merge_repeats([record, other])[0]) if one.varies]
    assert varied == ["ledger_activations_temporary", "ledger_unattributed"]
