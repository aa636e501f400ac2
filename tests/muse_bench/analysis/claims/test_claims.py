"""The claims as data: all of them there, each with its rule, and an answer whatever is known."""

import dataclasses

import pytest

from muse_bench.analysis.claims.answers import answer, answer_all, questions_of, rules, untrained, value_text
from muse_bench.analysis.claims.claim import Claim, choose_claims, read_claims
from muse_bench.analysis.claims.figures import Found
from muse_bench.errors import UsageError

IDS = [*(f"F{number:02}" for number in range(1, 76)), *(f"E{number:02}" for number in range(1, 38))]
COUNTED = ["F03", *(f"F{n}" for n in (51, 52, 53, 54, 56, 58, 60, 62, 64, 66)), *(f"E{n:02}" for n in range(1, 7))]


def chosen(patterns):
    return [claim.id for claim in choose_claims(read_claims(), patterns)]


def claim(claimed):
    words = dict.fromkeys(("id", "report", "model", "metric", "config", "mode", "unit", "note"), "")
    return Claim(**words, claimed=claimed)


def test_every_claim_of_both_reports_is_there_once():
    """A line lost, doubled or misplaced when the file is edited."""
    assert [one.id for one in read_claims()] == IDS


def test_every_claim_has_a_rule_and_every_rule_a_claim():
    """A list of rules longer or shorter than its claims, so that all behind are settled by their neighbours."""
    assert sorted(rules()) == sorted(IDS)


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("F26", "the peak less what is allocated before the step"),
        ("F50", "the peak less what is allocated before the step"),
        ("F57", "summed up as a theoretical minimum of inference"),
        ("F67", "perplexity of models that had not been trained, the vocabulary's size"),
        ("F73", "inference, divided by the peak of training"),
        ("E12", "logits.sum().backward(), no optimizer, the first step of a process; workspaces count"),
        ("E33", "expected, not measured"),
        ("E36", "a first target, called unrealistic"),
    ],
)
def test_the_last_rule_of_each_group_is_the_last_claims(name, protocol):
    """Groups of the right length in all, but one of them shifted into the next."""
    assert rules()[name].protocol == protocol


@pytest.mark.parametrize(
    ("patterns", "ids"),
    [
        (None, IDS),
        ("*", IDS),
        ("F02", ["F02"]),
        ("f02,E*", ["F02", *IDS[75:]]),
        ("E37, F01", ["F01", "E37"]),
        ("F7?", IDS[69:75]),
    ],
)
def test_claims_are_chosen_by_id(patterns, ids):
    """Small letters, spaces or patterns refused; one chosen twice; the order of the option in place of the reports'."""
    assert chosen(patterns) == ids


@pytest.mark.parametrize(("patterns", "named"), [("X1", "X1"), ("F01,F76", "F76"), ("F01,", ""), ("", "")])
def test_a_claim_that_is_not_there_is_named(patterns, named):
    """A misspelt id among good ones dropped in silence."""
    with pytest.raises(UsageError, match=f"--only '{named}' is no claim"):
        chosen(patterns)


@pytest.mark.parametrize(
    ("claimed", "bounds"),
    [("1.2-1.5", (1.2, 1.5)), ("0", (0.0, 0.0)), ("8372", (8372.0, 8372.0)), ("PASS", None), ("no", None)],
)
def test_bounds(claimed, bounds):
    """A range read as its first number, or a word taken for a number."""
    assert claim(claimed).bounds == bounds


def test_without_evidence_what_can_be_counted_is_settled_and_all_else_is_said_to_be_missing(known):
    """A rule that breaks without records, or calls a claim settled or missed that nothing was found about."""
    answers = answer_all(read_claims(), known())
    assert [one.claim.id for one in answers] == IDS
    settled = [one for one in answers if one.verdict != "not measurable here"]
    assert sorted(one.claim.id for one in settled) == sorted(COUNTED)
    for one in answers:
        ways = ("run it on a GPU.", "run this on one.", "train with --run-training.")
        assert one in settled or ("with --records, or" in one.reason and one.reason.endswith(ways)), one.claim.id


def test_no_reason_has_a_hole(known):
    """A place for a figure that was never filled, in any verdict."""
    words = {"theirs": Found(1.0, "counted"), "sound": Found(2.0, "counted"), "ours": Found(3.0, "counted")}
    for one in answer_all(read_claims(), known()):
        assert "{" not in one.reason
    for name, rule in rules().items():
        assert "{" not in rule.reason.format(**words), name


def test_a_reason_has_its_figure_with_the_unit_and_says_what_is_unknown(known):
    """A reason that gives a bare number, or 'None' for a figure that is not there."""
    claims = {one.id: one for one in read_claims()}
    assert "99.44 % at vocab 10,000" in answer(claims["F03"], rules()["F03"], known()).reason
    one_of_three = dataclasses.replace(rules()["F03"], reason="{theirs}, {sound}, {ours}")
    assert answer(claims["F03"], one_of_three, known()).reason == "99.44 %, unknown here, unknown here"


def test_what_would_settle_it_fits_what_is_missing(known):
    """Someone is sent to measure memory where a time or a training is missing."""
    reasons = {one.claim.id: one.reason for one in answer_all(read_claims(), known())}
    assert reasons["F16"].startswith("No saved training of both models")
    assert reasons["F68"].startswith("No saved training of both models")
    assert reasons["F10"].startswith("No saved times on a GPU")
    assert reasons["F04"].startswith("No saved times on a GPU")
    assert reasons["F19"].startswith("No saved record of it")
    assert reasons["F02"].startswith("No saved record of it")  # its sound figure settles it, not their own


def test_questions_are_asked_once_and_times_of_no_one():
    """A case run twice for two claims, or hours of timed cases run where they cannot be timed."""
    claims = choose_claims(read_claims(), "F19,F20,F22")
    questions = questions_of(claims)
    assert [(one.model, one.mode) for one in questions] == [("encoder", "forward-backward"), ("baseline", "train")]
    assert questions_of(choose_claims(read_claims(), "F04,F09,F16,E01")) == []


def test_what_is_to_be_trained_is_found_inside_other_figures_its_baseline_first(known):
    """`--run-training` leaves out a model whose quality stands inside another figure, or trains a model twice."""
    claims = choose_claims(read_claims(), "F16,F61,F68")
    names = untrained(claims, known())
    assert names[:2] == ["baseline", "ultra+dtype=bf16"]
    assert names.count("muse") == 1
    assert untrained(choose_claims(read_claims(), "F68"), known()) == ["baseline", "muse"]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "%", "-"),
        (Found("PASS", ""), "verdict", "PASS"),
        (Found(1272.04, ""), "MiB", "1,272.0"),
        (Found(1.234, ""), "x", "1.23"),
        (Found(99.5532, ""), "%", "99.55"),
        (Found(84.84, ""), "%", "84.8"),
        (Found(100.0, ""), "%", "100.0"),
    ],
)
def test_a_value_has_as_many_digits_as_the_claims(value, unit, text):
    """99.55 % shown as 99.6 %, or a missing value shown as 0."""
    assert value_text(value, unit) == text
