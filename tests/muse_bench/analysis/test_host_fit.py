"""Host memory that is short: how much is needed, what would fit, and when it decides."""

import pytest

from muse_bench.analysis.host_fit import HostBudget
from muse_bench.analysis.verdict import judge

GIB = 1 << 30
NEEDS = {"parameters": 8 * 10**9, "host_bytes": {"weights": 16 * GIB, "optimizer state": 16 * GIB}}


def test_a_machine_that_is_short_is_noted_and_decides_nothing(make_record):
    found = HostBudget(8 * GIB, asked=False).judge(judge(make_record("muse", **NEEDS)))
    assert found.verdict == "PASS"
    said = "host memory is short: 32.00 GiB needed, 8,192.0 MiB available in this machine; about --params 2b would fit"
    assert said in found.notes


def test_what_was_asked_for_decides(make_record):
    found = HostBudget(20 * GIB, asked=True).judge(judge(make_record("muse", **NEEDS)))
    assert found.verdict == "FAIL"
    assert [note for note in found.notes if note.startswith("verdict:")] == [
        "verdict: FAIL: host memory is short: 32.00 GiB needed, 20.00 GiB given; about --params 5b would fit"
    ]


@pytest.mark.parametrize(
    "changes",
    [{}, {"host_bytes": {}}, {**NEEDS, "host_bytes": {"weights": 20 * GIB}}, {**NEEDS, "provenance": "measured"}],
)
def test_enough_or_unknown_or_run_already_changes_nothing(make_record, changes):
    record = judge(make_record("muse", **changes))
    assert HostBudget(20 * GIB, asked=True).judge(record) == record
