"""The calibration's tables: what a reader must find in them."""

import dataclasses

import pytest

from muse_bench.calibration.cases import HELD_OUT, build_case
from muse_bench.execution.blank import blank_record
from muse_bench.record import Environment, RunFile
from muse_bench.report.accuracy import accuracy_sheets
from muse_bench.report.sheet import render_markdown

MIB = 1 << 20
PEAKS = ("peak_allocated_bytes", "cold_peak_allocated_bytes", "peak_reserved_bytes", "device_peak_bytes")


@pytest.fixture
def render():
    """The Markdown of one held-out case, measured as 100 MiB and predicted as 98, with changes to either."""

    def make(measured=None, predicted=None):
        case = build_case(HELD_OUT[0])
        records = [
            dataclasses.replace(blank_record(case, provenance, "NVIDIA H200"), **dict.fromkeys(PEAKS, peak * MIB))
            for provenance, peak in (("measured", 100), ("predicted", 98))
        ]
        changed = (
            dataclasses.replace(record, **(changes or {}))
            for record, changes in zip(records, (measured, predicted), strict=True)
        )
        environment = Environment(muse_bench="0.1.0", torch="2.11.0")
        return render_markdown(*accuracy_sheets([RunFile(environment=environment, records=tuple(changed))]))

    return make


def rows(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def test_an_under_estimate_shows_as_one(render):
    found = rows(render())
    assert ["held-out", "peak", "1", "2.00%", "2.00%", "2.00%", "1", "2.00%"] in found
    assert ["8 GiB", "1", "0", "0", "0", "0"] in found


def test_a_case_names_its_part_protocol_and_errors(render):
    found = rows(render(predicted={"device_peak_bytes": 150 * MIB}))
    assert found[-1][:2] == ["held-out", "encoder fp32, train adamw, 32000/768, 2 x 700"]
    assert found[-1][2:] == ["100.0", "98.0", "-2.00%", "-2.00%", "-2.00%", "+50.00%"]


def test_a_predictor_without_an_answer_is_there(render):
    found = rows(render(predicted={"peers": {"mem-tracker": 90 * MIB, "accelerate": None}}))
    assert ["held-out", "muse-bench", "1", "0", "2.00%", "2.00%", "2.00%", "1"] in found
    assert ["held-out", "MemTracker, CPU tensors", "1", "0", "10.00%", "10.00%", "10.00%", "1"] in found
    assert ["held-out", "accelerate estimate-memory", "0", "1", "-", "-", "-", "-"] in found


def test_a_failed_prediction_is_a_row_without_numbers_and_a_line(render):
    text = render(predicted={"status": "crashed", "reason": "<b>it\nfell", **dict.fromkeys(PEAKS)})
    assert rows(text)[-1][3:] == ["-"] * 5
    assert "the prediction crashed: \\<b\\>it fell" in text
