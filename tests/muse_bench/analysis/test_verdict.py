"""PASS, FAIL or INCONCLUSIVE, and never a PASS that is not proven."""

import pytest

from muse_bench.analysis.verdict import PREDICTION_ERROR, exit_code, judge, margin_bytes, reason_of
from muse_bench.errors import ExitCode

LIMIT = 1_000_000
CROWDED = ("other processes on the GPU: pid 7 (python) holds 300 MiB",)
MEASURED = {"provenance": "measured", "device_peak_provenance": "sampled", "limit_bytes": LIMIT}


@pytest.mark.parametrize(
    ("peak", "verdict"),
    [
        (int(LIMIT / (1 + PREDICTION_ERROR)) - 1, "PASS"),
        (int(LIMIT / (1 + PREDICTION_ERROR)) + 2, "INCONCLUSIVE"),
        (LIMIT, "INCONCLUSIVE"),
        (int(LIMIT / (1 - PREDICTION_ERROR)) - 2, "INCONCLUSIVE"),
        (int(LIMIT / (1 - PREDICTION_ERROR)) + 2, "FAIL"),
    ],
)
def test_a_prediction_decides_only_outside_its_error(make_record, peak, verdict):
    record = judge(make_record(device_peak_bytes=peak, limit_bytes=LIMIT))
    assert record.verdict == verdict
    assert "error" in reason_of(record)


@pytest.mark.parametrize(("peak", "verdict"), [(LIMIT, "PASS"), (LIMIT + 1, "FAIL")])
def test_a_measurement_decides_to_the_byte(make_record, peak, verdict):
    record = make_record(device_peak_bytes=peak, peak_reserved_bytes=LIMIT // 2, **MEASURED)
    assert judge(record).verdict == verdict


def test_other_processes_make_only_a_peak_over_the_limit_inconclusive(make_record):
    over = make_record(device_peak_bytes=LIMIT + 1, peak_reserved_bytes=LIMIT // 2, notes=CROWDED, **MEASURED)
    below = make_record(device_peak_bytes=LIMIT - 1, peak_reserved_bytes=LIMIT // 2, notes=CROWDED, **MEASURED)
    assert judge(over).verdict == "INCONCLUSIVE"
    assert judge(below).verdict == "PASS"


def test_reserved_memory_over_the_limit_fails_whatever_else_is_known(make_record):
    crowded = make_record(device_peak_bytes=LIMIT + 9, peak_reserved_bytes=LIMIT + 1, notes=CROWDED, **MEASURED)
    unknown = make_record(device_peak_bytes=None, peak_reserved_bytes=LIMIT + 1, **MEASURED)
    assert judge(crowded).verdict == judge(unknown).verdict == "FAIL"


def test_an_unknown_device_peak_proves_nothing(make_record):
    record = judge(make_record(device_peak_bytes=None, peak_reserved_bytes=LIMIT // 2, **MEASURED))
    assert record.verdict == "INCONCLUSIVE"
    assert reason_of(record) == "the peak of the whole device is unknown"


def test_sampling_that_missed_reserved_memory_proves_nothing(make_record):
    record = make_record(device_peak_bytes=LIMIT // 3, peak_reserved_bytes=LIMIT // 2, **MEASURED)
    assert judge(record).verdict == "INCONCLUSIVE"


@pytest.mark.parametrize(
    ("status", "notes", "verdict"),
    [("oom", (), "FAIL"), ("oom", CROWDED, "INCONCLUSIVE"), ("crashed", (), "INCONCLUSIVE")],
)
def test_a_case_that_did_not_finish(make_record, status, notes, verdict):
    record = judge(make_record(status=status, device_peak_bytes=None, notes=notes, **MEASURED))
    assert record.verdict == verdict


def test_without_a_budget_there_is_no_verdict(make_record):
    record = make_record(limit_bytes=None)
    assert judge(record) is record


def test_judging_again_replaces_the_reason(make_record):
    once = judge(make_record(notes=("kept",)))
    assert once.notes[0] == "kept"
    assert judge(once) == once


def test_the_margin_is_what_is_left_of_the_limit(make_record):
    assert margin_bytes(make_record(device_peak_bytes=300, limit_bytes=1_000)) == 700
    assert margin_bytes(make_record(device_peak_bytes=1_300, limit_bytes=1_000)) == -300
    assert margin_bytes(make_record(device_peak_bytes=None)) is None


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([("ok", "PASS"), ("ok", "PASS")], ExitCode.OK),
        ([("ok", "PASS"), ("ok", "INCONCLUSIVE")], ExitCode.INCONCLUSIVE),
        ([("ok", "INCONCLUSIVE"), ("oom", "FAIL")], ExitCode.FAIL),
        ([("crashed", "INCONCLUSIVE"), ("ok", "PASS")], ExitCode.CASE_FAILED),
        ([("crashed", "INCONCLUSIVE"), ("ok", "FAIL")], ExitCode.FAIL),
    ],
)
def test_the_worst_verdict_is_the_exit_code(make_record, rows, code):
    assert exit_code(tuple(make_record(status=status, verdict=verdict) for status, verdict in rows)) == code
