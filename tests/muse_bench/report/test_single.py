"""One record in full: a ledger that closes, modules, the step that peaks."""

import dataclasses

import pytest

from muse_bench.ledger import Ledger, ModuleRow
from muse_bench.record import RunFile
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


def test_host_memory_is_listed_by_part(run, draw):
    text = draw(single(_alone(run, 0, host_bytes={"checkpoints": 96 << 20, "weights": 4 << 20})), 80)
    lines = [line.split() for line in text.splitlines()]
    below = lines[lines.index(["kept", "in", "pinned", "host", "memory", "MiB"]) :]
    rows = [line for line in below if line][2:5]
    assert rows == [["checkpoints", "96.0"], ["weights", "4.0"], ["all", "of", "it", "100.0"]]
    assert "host memory" not in draw(single(_alone(run, 0, host_bytes={})), 80)


LINK = {
    "host_bytes": {"weights": 20 << 30},
    "to_device_bytes": 40 << 30,
    "to_host_bytes": 20 << 30,
    "link_seconds": 2.5,
    "step_time_seconds": None,
    "link_source": "PCIe 4.0 x8, theoretical",
}


def test_what_crosses_the_link_is_shown_with_the_time_that_it_takes_at_least(run, draw):
    text = draw(single(_alone(run, 0, **LINK)), 120)
    assert "40.00 GiB to the device and 20.00 GiB back in a step:\n" in text
    assert "\nat least 2,500.0 ms a step over the host link (PCIe 4.0 x8, theoretical)\n" in text
    token = {"new_token_to_device_bytes": 20 << 30, "new_token_link_seconds": 1.25}
    text = draw(single(_alone(run, 0, **LINK, **token)), 120)
    assert "in a step, 20.00 GiB to the device for a new token:\n" in text
    assert "at least 2,500.0 ms a step, 1,250.0 ms a new token over the host link" in text


def test_what_was_measured_shows_how_much_of_it_the_link_needs(run, draw):
    taken = {"step_time_seconds": 3.125, "new_token_link_seconds": 1.25, "new_token_seconds": 1.25}
    text = draw(single(_alone(run, 0, **{**LINK, **taken})), 120)
    assert "at least 2,500.0 ms (80.0 % of the 3,125.0 ms taken) a step, 1,250.0 ms (100.0 % of" in text


def test_a_record_that_does_not_say_what_crosses_shows_no_line_of_it(run, draw):
    text = draw(single(_alone(run, 0, host_bytes={"weights": 1 << 30})), 120)
    assert "host link" not in text
    assert "to the device" not in text


@pytest.mark.parametrize(
    ("update", "execution", "line"),
    [
        ("in-backward", "graph", "update in backward, CUDA graph"),
        ("after", "eager", "update after backward, eager"),
        (None, "eager", "eager"),
        ("newer", None, "update newer"),
        (None, None, None),
    ],
)
def test_how_the_case_ran_is_a_line_of_what_is_known(run, draw, update, execution, line):
    lines = draw(single(_alone(run, 0, update=update, execution=execution)), 80).splitlines()
    place = lines.index("26,214,400 parameters") + 1
    assert lines[place] == (line or "123.4 ms a step, 16,600 tokens/s")


def test_modules_beyond_the_largest_are_summed(run, draw):
    rows = tuple(ModuleRow(module=f"part{letter}", ledger=Ledger(parameters=1 << 20)) for letter in "abcdefghijklmno")
    text = draw(single(_alone(run, 0, modules=rows)), 80)
    assert "4 others" in text
    assert "partk" in text
    assert "partl" not in text
