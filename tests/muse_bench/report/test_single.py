"""One record in full: a ledger that closes, modules, the step that peaks."""

import dataclasses

import pytest

from muse_bench.record import Ledger, ModuleRow, RunFile
from muse_bench.report.single import single


def _alone(run: RunFile, index: int, **changes: object) -> RunFile:
    return dataclasses.replace(run, records=(dataclasses.replace(run.records[index], **changes),))


@pytest.mark.parametrize("width", [80, 120])
def test_single(run, draw, snapshot, width):
    snapshot(f"single_{width}.txt", draw(single(_alone(run, 0)), width))


def test_a_case_that_failed_says_why(run, draw):
    text = draw(single(_alone(run, 2)), 80)
    assert "streamed ran out of memory: Tried to allocate 90.00 GiB" in text


def test_a_ledger_that_does_not_close_is_shown_not_to(run, draw):
    assert "the parts add up to" not in draw(single(_alone(run, 0)), 80)
    assert "the parts add up to" in draw(single(_alone(run, 0, peak_allocated_bytes=1 << 30)), 80)


def test_modules_beyond_the_largest_are_summed(run, draw):
    rows = tuple(ModuleRow(module=f"part{letter}", ledger=Ledger(parameters=1 << 20)) for letter in "abcdefghijklmno")
    text = draw(single(_alone(run, 0, modules=rows)), 80)
    assert "4 others" in text
    assert "partk" in text
    assert "partl" not in text
