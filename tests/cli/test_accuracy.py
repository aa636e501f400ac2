"""Saved measurements and predictions, side by side."""

import dataclasses

import pytest

from muse_bench.calibration.cases import DEVELOPMENT, HELD_OUT, build_case
from muse_bench.execution.blank import blank_record
from muse_bench.record import Environment, RunFile

MIB = 1 << 20


@pytest.fixture
def saved(tmp_path):
    """Writes one measured and one predicted file of a development, a held-out and another case."""
    other = dataclasses.replace(build_case(DEVELOPMENT[0]), batch=7)
    cases = (build_case(DEVELOPMENT[0]), build_case(HELD_OUT[0]), other)
    for provenance, peak in (("measured", 100 * MIB), ("predicted", 98 * MIB)):
        records = tuple(
            dataclasses.replace(
                blank_record(case, provenance, "NVIDIA H200"), peak_allocated_bytes=peak, device_peak_bytes=peak
            )
            for case in cases
        )
        run = RunFile(environment=Environment(muse_bench="0.1.0", torch="2.11.0"), records=records)
        (tmp_path / f"{provenance}.json").write_text(run.to_json())


def test_errors_come_by_part_then_verdicts_then_cases(call, saved, capsys, tmp_path):
    assert call("accuracy", "measured.json", "predicted.json", "-o", "a.md") == 0
    shown = capsys.readouterr().out
    text = (tmp_path / "a.md").read_text()
    for words in (shown, text):
        places = [words.index(title) for title in ("Prediction error", "No PASS that fails", "Each case")]
        assert places == sorted(places)
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in text.splitlines() if "| peak " in line]
    assert rows == [[part, "peak", "1"] for part in ("development", "held-out", "other")]


def test_files_without_a_pair_are_refused(call, saved, capsys):
    assert call("accuracy", "measured.json") == 2
    assert "both measured and predicted" in capsys.readouterr().err
