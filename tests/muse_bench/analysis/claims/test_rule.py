"""The verdicts, as a table of what is claimed, what is found, and what follows."""

import pytest

from muse_bench.analysis.claims.claim import Claim
from muse_bench.analysis.claims.figures import Found
from muse_bench.analysis.claims.rule import CRITERIA, VERDICTS, Rule, decide

YES, CAVEAT, NO, BETTER, MISSING = VERDICTS


def verdict(claimed, unit, theirs=None, sound=None, ours=None, **rule):
    words = dict.fromkeys(("id", "report", "model", "metric", "config", "mode", "note"), "")
    found = {"theirs": theirs, "sound": sound, "ours": ours}
    return decide(
        Rule(protocol="as they did", reason="so", **rule),
        Claim(**words, claimed=claimed, unit=unit),
        {side: None if value is None else Found(value, "counted") for side, value in found.items()},
    )


def test_each_verdict_has_a_criterion():
    """A verdict that the documents do not explain."""
    assert set(CRITERIA) == set(VERDICTS)


@pytest.mark.parametrize(
    ("claimed", "unit", "found", "expected"),
    [
        ("456.3", "MiB", 456.3 * 1.0099, YES),
        ("456.3", "MiB", 456.3 * 0.9901, YES),
        ("456.3", "MiB", 456.3 * 1.0101, NO),
        ("456.3", "MiB", 456.3 * 0.9899, NO),
        ("1", "MiB", 0.9, YES),
        ("1", "MiB", 1.49, YES),
        ("1", "MiB", 0.49, NO),
        ("1.0", "MiB", 0.96, YES),
        ("1.0", "MiB", 0.9, NO),
        ("36.8", "K params", 36.84, YES),
        ("84.8", "%", 85.79, YES),
        ("84.8", "%", 83.81, YES),
        ("84.8", "%", 85.81, NO),
        ("84.8", "%", 83.79, NO),
        ("0", "%", 0.0, YES),
        ("1.0", "growth exponent", 1.09, YES),
        ("1.0", "growth exponent", 0.89, NO),
        ("1-2", "%", 0.1, YES),
        ("1-2", "%", 2.9, YES),
        ("1-2", "%", 3.1, NO),
        ("PASS", "verdict", "PASS", YES),
        ("PASS", "verdict", "FAIL", NO),
        ("PASS", "verdict", "INCONCLUSIVE", NO),
    ],
)
def test_within_the_tolerance_it_is_found_and_beyond_it_is_not(claimed, unit, found, expected):
    """A tolerance on one side alone, of another unit, or of digits that the claim does not have."""
    assert verdict(claimed, unit, found) == expected


@pytest.mark.parametrize(
    ("claimed", "unit", "found", "better", "expected"),
    [
        ("1.2-1.5", "x", 1.2, "less", YES),
        ("1.2-1.5", "x", 1.5, "less", YES),
        ("1.2-1.5", "x", 1.19, "less", BETTER),
        ("1.2-1.5", "x", 1.51, "less", NO),
        ("1.2-1.5", "x", 1.19, None, NO),
        ("1.2-1.5", "x", 1.51, None, NO),
        ("84.8", "%", 90.0, "more", BETTER),
        ("84.8", "%", 80.0, "more", NO),
        ("82.0", "MiB", 26.9, "less", BETTER),
        ("82.0", "MiB", 90.0, "less", NO),
        ("1-2", "%", -6.9, "less", BETTER),
        ("no", "yes/no", "yes", "more", BETTER),
        ("no", "yes/no", "no", "more", YES),
        ("no", "yes/no", "yes", None, NO),
    ],
)
def test_what_is_better_is_exceeded_where_a_direction_is_better(claimed, unit, found, better, expected):
    """More slowdown praised as exceeding; a figure that has no better side called exceeded."""
    assert verdict(claimed, unit, found, better=better) == expected


def test_what_counts_something_else_than_its_name_has_a_caveat_and_a_miss_stays_one():
    """A caveat that softens a miss, or one lost where the figure is found."""
    assert verdict("17.4", "MiB", 17.4, caveat=True) == CAVEAT
    assert verdict("17.4", "MiB", 19.0, caveat=True) == NO
    assert verdict("17.4", "MiB", 3.0, caveat=True, better="less") == BETTER


@pytest.mark.parametrize(
    ("sound", "expected"), [(None, YES), (456.9, YES), (658.8, CAVEAT), (200.0, CAVEAT), ("PASS", CAVEAT)]
)
def test_a_sound_figure_that_differs_is_a_caveat(sound, expected):
    """A figure that only their protocol gives called reproduced; one without a sound peer given a caveat."""
    assert verdict("456.3", "MiB", 456.3, sound) == expected


def test_a_sound_figure_changes_no_miss():
    """What is not found under their protocol excused by a sound one that gives it."""
    assert verdict("84.8", "%", 50.0, 84.8, better="more") == NO
    assert verdict("84.8", "%", 90.0, 50.0, better="more") == BETTER


@pytest.mark.parametrize(("sound", "expected"), [(91.7, CAVEAT), (97.0, BETTER), (60.0, NO), (None, MISSING)])
def test_a_refused_figure_is_settled_by_the_sound_one(sound, expected):
    """A comparison of what is not alike counted as found since its own number comes out."""
    assert verdict("91.6", "%", 91.6, sound, refused=True, better="more") == expected


def test_a_figure_that_settles_is_no_caveat_to_itself():
    """The sound figure of a claim that it settles held against it twice."""
    assert verdict("1-2", "%", None, 1.5, settles="sound", better="less") == YES
    assert verdict("no", "yes/no", None, 97.0, "no", settles="ours", better="more") == YES


@pytest.mark.parametrize(
    ("found", "better", "expected"),
    [(100.0, "more", BETTER), (100.3, "more", BETTER), (99.9, "more", NO), (99.9, "less", BETTER), (100.0, "less", NO)],
)
def test_a_bound_is_passed_or_it_is_not(found, better, expected):
    """99.9 of 100 billion let through by the tolerance of a figure, or 100 called merely reproduced."""
    assert verdict("100", "B params", None, None, found, settles="ours", better=better, bound=True) == expected


@pytest.mark.parametrize(("found", "expected"), [(-0.09, YES), (0.8, YES), (1.09, YES), (1.2, NO)])
def test_at_most_takes_less_for_the_same(found, expected):
    """A time that grows slower than O(N) taken for a miss of O(N)."""
    assert verdict("1.0", "growth exponent", found, at_most=True) == expected


def test_sizes_stated_roughly_may_be_off_by_more():
    """The tolerance of a rule ignored, or used for all."""
    assert verdict("28.0", "MiB", None, 29.3, settles="sound", relative=0.05) == YES
    assert verdict("28.0", "MiB", None, 29.5, settles="sound", relative=0.05) == NO
    assert verdict("28.0", "MiB", None, 29.3, settles="sound") == NO


@pytest.mark.parametrize("settles", ["theirs", "sound", "ours"])
def test_without_the_figure_that_settles_nothing_is_said(settles):
    """A claim judged by another figure than the one that settles it."""
    found = {side: None if side == settles else 456.3 for side in ("theirs", "sound", "ours")}
    assert verdict("456.3", "MiB", **found, settles=settles) == MISSING


def test_a_range_of_sizes_keeps_its_digits():
    """The digits of a range counted from its first point to its end, which leaves no tolerance for rounding."""
    assert verdict("0.1-0.3", "MiB", 0.34) == YES
    assert verdict("0.1-0.3", "MiB", 0.36) == NO
