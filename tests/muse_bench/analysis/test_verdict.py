"""PASS, FAIL or INCONCLUSIVE, and never a PASS that is not proven."""

import pytest

from muse_bench.analysis.verdict import exit_code, judge, margin_bytes, reason_of
from muse_bench.errors import ExitCode
from muse_bench.record import Proof

MIB = 1 << 20
LIMIT = 1_000_000
CROWDED = ("other processes on the GPU: pid 7 (python) holds 300 MiB",)
MEASURED = {"provenance": "measured", "device_peak_provenance": "sampled", "limit_bytes": LIMIT}


def predicted(make_record, **changes):
    """1,000 MiB reserved and 500 MiB of context."""
    sizes = {"peak_reserved_bytes": 1_000 * MIB, "context_bytes": 500 * MIB, "device_peak_bytes": 1_500 * MIB}
    return make_record(**{**sizes, "context_source": "estimated: from others", **changes})


@pytest.mark.parametrize(
    ("limit", "verdict"),
    [
        (1_080 + 500 + 256, "PASS"),
        (1_080 + 500 + 256 - 1, "INCONCLUSIVE"),
        (920 + 500 - 128, "INCONCLUSIVE"),
        (920 + 500 - 128 - 1, "FAIL"),
    ],
)
def test_a_prediction_decides_only_outside_its_interval(make_record, limit, verdict):
    """1,000 MiB of reserved memory err by 8 %, 500 MiB of an estimated context by 256 MiB up and 128 down."""
    record = judge(predicted(make_record, limit_bytes=limit * MIB))
    assert record.verdict == verdict
    assert (record.device_lower_bytes, record.device_upper_bytes) == (1_292 * MIB, 1_836 * MIB)
    assert "reserved -8 % to +8 %, as calibrated; context -128 to +256 MiB, estimated" in reason_of(record)


def test_the_reason_names_both_bounds_of_what_is_not_decided(make_record):
    reason = reason_of(judge(predicted(make_record, limit_bytes=1_500 * MIB)))
    assert reason.startswith("1,292.0 MiB to 1,836.0 MiB, on both sides of the limit of 1,500.0 MiB")


def test_a_measurement_has_no_interval(make_record):
    record = judge(make_record(device_peak_bytes=LIMIT, peak_reserved_bytes=LIMIT // 2, **MEASURED))
    assert record.device_lower_bytes is record.device_upper_bytes is None


@pytest.mark.parametrize(("ran", "verdict"), [(True, "PASS"), (False, "FAIL")])
@pytest.mark.parametrize(
    "known",
    [
        {"device_peak_bytes": LIMIT // 2, "peak_reserved_bytes": LIMIT // 4, **MEASURED},
        {"device_peak_bytes": LIMIT * 2, "peak_reserved_bytes": LIMIT * 2, **MEASURED},
        {"device_peak_bytes": LIMIT * 2, "peak_reserved_bytes": LIMIT * 2, "limit_bytes": LIMIT},
        {"device_peak_bytes": 2, "peak_reserved_bytes": 1, "limit_bytes": LIMIT},
        {"device_peak_bytes": None, "status": "oom", **MEASURED},
    ],
)
def test_proof_by_running_outranks_whatever_else_is_known(make_record, known, ran, verdict):
    record = judge(make_record(**known, proof=Proof(cap_bytes=LIMIT // 2, ran=ran, steps=5, alloc_retries=3)))
    assert record.verdict == verdict
    assert reason_of(record).startswith("proven: ")
    assert "3 times" in reason_of(record)


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
