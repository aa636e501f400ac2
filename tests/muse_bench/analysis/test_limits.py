"""How much may grow, and how cases stand that did not finish, are missing or new."""

import pytest

from muse_bench.analysis.difference import Change, match
from muse_bench.analysis.limits import judge_cases, parse_limit
from muse_bench.errors import UsageError
from muse_bench.ledger import Ledger

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "before", "most"),
    [
        ("peak:2%", 1000, 1020),
        ("peak:0.5 %", 1000, 1005),
        ("cold:10MiB", 1000, 1000 + 10 * MIB),
        ("reserved:0", 1000, 1000),
        ("gradients:1%", 0, 0),
        ("parameters:1k", 500, 1500),
        ("ledger_parameters:1KiB", 4096, 5120),
        ("peak:150%", 100, 250),
    ],
)
def test_growth_up_to_the_limit_is_admitted_and_a_byte_more_is_not(text, before, most):
    limit = parse_limit(text)
    assert limit.admits(Change(limit.what, before, most))
    assert not limit.admits(Change(limit.what, before, most + 1))
    assert limit.admits(Change(limit.what, before, 0))


@pytest.mark.parametrize(("before", "after"), [(None, 5), (5, None), (None, None)])
def test_what_is_not_known_is_not_admitted(before, after):
    """A gate on the time of a prediction, which has none, must not pass."""
    assert not parse_limit("step:5%").admits(Change("step", before, after))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("vram:2%", r"'vram' is unknown: choose from peak, cold, .*gradients"),
        ("peak", "no limit"),
        ("peak:", "no limit"),
        ("peak:-1%", "'-1%'"),
        ("peak:lots", "'lots'"),
        ("parameters:1MiB", "'1MiB'"),
        ("step:3", "no limit"),
    ],
)
def test_what_is_no_limit(text, said):
    with pytest.raises(UsageError, match=said):
        parse_limit(text)


def _standing(before, after, *limits):
    judged = judge_cases(match(before, after), [parse_limit(text) for text in limits or ["peak:2%"]])
    return [(one.record.model, one.standing, one.reason) for one in judged]


def test_each_limit_is_held_against_its_own_figure(make_record):
    """parameters counts them; ledger_parameters are their bytes."""
    old = make_record(parameters=10, ledger=Ledger(parameters=5), peak_allocated_bytes=5)
    new = make_record(parameters=10, ledger=Ledger(parameters=6), peak_allocated_bytes=6)
    (judged,) = judge_cases(match([old], [new]), [parse_limit("parameters:0"), parse_limit("ledger_parameters:0")])
    assert [one.kept for one in judged.outcomes] == [True, False]
    assert judged.standing == "FAIL"


def test_a_missing_case_fails_and_a_new_one_does_not(make_record):
    assert _standing([make_record("a")], [make_record("b")]) == [
        ("a", "FAIL", "missing"),
        ("b", "new", "not in the baseline"),
    ]


def test_a_case_whose_preset_changed_is_missing_and_says_what_changed(make_record):
    reason = _standing([make_record()], [make_record(dtype="bf16")])[0][2]
    assert reason == "missing; in its place dtype: fp32 -> bf16"


@pytest.mark.parametrize(
    ("was", "now", "standing"),
    [
        ("ok", "oom", "FAIL"),
        ("ok", "crashed", "FAIL"),
        ("oom", "crashed", "FAIL"),
        ("crashed", "crashed", "FAIL"),
        ("oom", "oom", "skipped"),
        ("oom", "ok", "skipped"),
    ],
)
def test_cases_that_did_not_finish(make_record, was, now, standing):
    found = _standing([make_record(status=was)], [make_record(status=now)])
    assert found == [("baseline", standing, f"{was} in the baseline, {now} now")]
