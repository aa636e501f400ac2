"""What a frontier says of its edges, and of what was measured there."""

import pytest

from muse_bench.analysis.frontier import Budget, Check, Edge, Frontier

BUDGET = Budget(budget_bytes=8 << 30, headroom=0.1)
GIB = 1 << 30


def edge_of(record, count, **changes):
    return Edge(budget=BUDGET, count=count, record=record, **changes)


def frontier_of(*edges, checks=(), **changes):
    return Frontier(
        **{"model": "ultra", "dtype": "fp16", "size": "seq", "unit": 64, **changes}, edges=edges, checks=checks
    )


@pytest.mark.parametrize(
    ("edge", "note"),
    [
        ({"count": 5, "beyond": 6}, "frontier: seq 320 fits 8,192.0 MiB less 10 %, and the largest that does is this"),
        (
            {"count": 5},
            "frontier: seq 320 fits 8,192.0 MiB less 10 %, and the largest that does is at",
        ),
        ({"count": 0, "beyond": 1}, "frontier: no seq that was tried fits 8,192.0 MiB less 10 %"),
    ],
)
def test_a_record_says_which_edge_it_is(make_record, edge, note):
    (record,) = frontier_of(edge_of(make_record(), **edge)).records()
    assert record.notes[-1].startswith(note)


def test_measured_records_follow_the_predictions(make_record):
    edge = edge_of(make_record("ultra"), 5)
    check = Check(edge=edge, at_edge=make_record("ultra", seq=320), beyond=make_record("ultra", seq=384))
    predicted, at_edge, beyond = frontier_of(edge, checks=(check,)).records()
    assert (at_edge.seq, beyond.seq) == (320, 384)
    assert "beyond" in beyond.notes[-1]
    assert len({predicted.notes, at_edge.notes, beyond.notes}) == 3


def test_an_edge_of_which_nothing_was_predicted_has_no_record():
    assert [*frontier_of(edge_of(None, 0, reason="cannot be traced")).records()] == []


@pytest.mark.parametrize(("verdict", "holds"), [("PASS", True), ("FAIL", False), ("INCONCLUSIVE", None)])
def test_an_edge_holds_when_it_was_measured_to_pass(make_record, verdict, holds):
    check = Check(edge=edge_of(make_record(), 1), at_edge=make_record(verdict=verdict), beyond=None)
    assert check.holds is holds


def test_one_prediction_is_judged_for_each_budget(make_record):
    record = make_record(peak_reserved_bytes=9 * GIB, device_peak_bytes=9 * GIB, context_source="measured: by hand")
    verdicts = [Budget(budget_bytes=size * GIB, headroom=0.1).judge(record).verdict for size in (8, 10, 12)]
    assert verdicts == ["FAIL", "INCONCLUSIVE", "PASS"]
