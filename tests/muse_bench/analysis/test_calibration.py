"""Errors by part of the matrix, verdicts that came true, and the other predictors."""

import dataclasses
import json
from pathlib import Path

import pytest

from muse_bench.analysis.accuracy import Pair, pair_up
from muse_bench.analysis.calibration import OURS, WITH_WORKSPACES, by_part, compare_peers, count_verdicts, part_of
from muse_bench.analysis.interval import device_interval
from muse_bench.calibration.cases import DEVELOPMENT, HELD_OUT, PARTS, build_case
from muse_bench.execution.blank import blank_record
from muse_bench.ledger import Ledger
from muse_bench.record import Record, read_run_file
from muse_bench.units import GIB, MIB


def record_of(row, **changes):
    return dataclasses.replace(blank_record(build_case(row), "measured", "NVIDIA H200"), **changes)


@pytest.fixture
def make_pair(make_record):
    """A pair of a case that is held out, with the devices' peaks in bytes."""

    def make(measured=None, predicted=None, **changes):
        base = record_of(HELD_OUT[0], peak_allocated_bytes=100 * MIB)
        said = {"device_peak_bytes": predicted, "peak_reserved_bytes": predicted and predicted - 600 * MIB, **changes}
        return Pair(
            dataclasses.replace(base, device_peak_bytes=measured),
            dataclasses.replace(base, provenance="predicted", **said),
        )

    return make


@pytest.mark.parametrize("part", PARTS)
def test_every_row_of_the_matrix_is_in_its_part(part):
    assert {part_of(record_of(row)) for row in PARTS[part]} == {part}


def test_no_case_is_in_both_parts_or_twice_in_one():
    """A case that is held out and was developed on would be no test of the rules."""
    cases = [build_case(row) for row in (*DEVELOPMENT, *HELD_OUT)]
    assert len(set(map(repr, cases))) == len(cases)


@pytest.mark.parametrize("changes", [{"batch": 77}, {"autocast": "fp16"}, {"workspace_setting": "off"}])
def test_a_case_that_differs_from_the_matrix_is_another(changes):
    assert part_of(record_of(DEVELOPMENT[0], **changes)) == "other"


def test_the_part_survives_the_record_file():
    row = DEVELOPMENT[0]
    read = Record.from_json(json.loads(json.dumps(dataclasses.asdict(record_of(row)))))
    assert part_of(read) == "development"


def test_pairs_are_grouped_in_the_matrixs_order_with_the_others_last(make_pair):
    other, held = make_pair(), make_pair()
    other = Pair(dataclasses.replace(other.measured, batch=77), other.predicted)
    assert by_part([other, held]) == {"held-out": [held], "other": [other]}


@pytest.mark.parametrize(
    ("measured", "predicted", "field"),
    [
        (1 * GIB, 1 * GIB, "passes_right"),
        (9 * GIB, 1 * GIB, "passes_wrong"),
        (15 * GIB, 16 * GIB, "fails_right"),
        (1 * GIB, 16 * GIB, "fails_wrong"),
        (7 * GIB, int(7.2 * GIB), "inconclusive"),
        (8 * GIB - 1, 1 * GIB, "passes_wrong"),  # within the budget, but not within its headroom
    ],
)
def test_a_verdict_for_8_gib_against_what_was_used(make_pair, measured, predicted, field):
    count = count_verdicts([make_pair(measured, predicted)], 8 * GIB)
    counts = {name: value for name, value in dataclasses.asdict(count).items() if name != "budget_bytes"}
    assert counts == {**dict.fromkeys(counts, 0), field: 1}


def test_the_verdict_is_of_the_budget_asked_for_not_of_the_records_own(make_pair):
    """Records are saved with 8 GiB; a 1 GiB card must not be told PASS for that."""
    assert count_verdicts([make_pair(3 * GIB, 3 * GIB)], 1 * GIB).fails_right == 1


def test_what_was_not_measured_or_not_predicted_is_no_right_verdict(make_pair):
    assert count_verdicts([make_pair(None, 1 * GIB)], 8 * GIB).passes_right == 0
    failed = make_pair(1 * GIB, None, status="crashed")
    assert count_verdicts([failed], 8 * GIB).inconclusive == 1


def test_predictors_are_held_to_the_same_cases_and_silence_is_counted(make_pair):
    pairs = [
        make_pair(peak_allocated_bytes=101 * MIB, peers={"mem-tracker": 90 * MIB, "accelerate": None}),
        make_pair(peak_allocated_bytes=None, status="crashed", peers={"mem-tracker": 120 * MIB, "accelerate": None}),
        make_pair(peak_allocated_bytes=500 * MIB),  # the others were not asked
    ]
    ours, tracker, _, accelerate = compare_peers(pairs)
    assert (ours.predictor, ours.errors.cases, ours.without_answer) == (OURS, 1, 1)
    assert ours.errors.worst == pytest.approx(0.01)
    assert (tracker.errors.cases, tracker.errors.under_estimates, tracker.without_answer) == (2, 1, 0)
    assert tracker.errors.worst == pytest.approx(0.2)
    assert (accelerate.errors, accelerate.without_answer) == (None, 2)
    assert {summary.part for summary in (ours, tracker, accelerate)} == {"held-out"}


def test_a_predictor_that_knows_no_workspaces_is_also_shown_with_them(make_pair):
    """Else its error on a small model would be cuBLAS's alone."""
    ledger = Ledger(parameters=92 * MIB, workspace=8 * MIB)
    pair = make_pair(peers={"mem-tracker": 92 * MIB, "accelerate": 92 * MIB}, ledger=ledger)
    found = {one.predictor: one.errors.worst for one in compare_peers([pair]) if one.errors}
    assert found["mem-tracker"] == pytest.approx(0.08)
    assert found[f"mem-tracker{WITH_WORKSPACES}"] == 0
    assert f"accelerate{WITH_WORKSPACES}" not in found


def test_nobody_asked_is_no_comparison(make_pair):
    assert compare_peers([make_pair()]) == []


def test_every_calibrated_case_lies_within_the_interval_that_verdicts_use() -> None:
    """An interval that a measured case falls out of would let a PASS be wrong."""
    reports = Path(__file__).parents[3] / "reports" / "h200"
    files = [*sorted(reports.glob("calibration*.json")), *sorted(reports.glob("predicted/calibration*.json"))]
    pairs = pair_up(record for file in files for record in read_run_file(file).records)
    assert len(pairs) >= 120
    for pair in pairs:
        interval = device_interval(pair.predicted)
        assert interval is not None
        assert pair.measured.device_peak_bytes is not None
        assert interval.lower_bytes <= pair.measured.device_peak_bytes <= interval.upper_bytes, pair.measured.model
