"""Goals against figures."""

import pytest

from muse_bench.kernel_bench.benchmark import LIMIT, Goal, Sizes
from muse_bench.kernel_bench.goals import with_goals

SIZES = Sizes()


def outcome(rows, goal):
    (found,) = with_goals(rows, SIZES, [goal])[0].goals
    return found


@pytest.mark.parametrize(("share", "met"), [(0.8, True), (0.86, False)])
def test_a_share_of_the_limit(make_row, share, met):
    """17 of 20 microseconds is 85 %."""
    found = outcome([make_row()], Goal(figure="forward", against=LIMIT, factor=1 / share))
    assert (found.met, found.ratio) == (met, pytest.approx(20 / 17))
    assert found.goal == f"forward at {share * 100:.0f} % of the limit or more"


@pytest.mark.parametrize(("theirs", "met"), [(6.1e-5, True), (5.9e-5, False)])
def test_faster_than_a_peer(make_row, theirs, met):
    goal = Goal(figure="forward+backward", against="eager", factor=1)
    assert outcome([make_row(), make_row("eager", forward_backward_seconds=theirs)], goal).met is met


def test_scratch_leaves_out_what_must_be_written(make_row):
    goal = Goal(figure="scratch", against="eager", factor=0.01)
    eager = make_row("eager", peak_bytes=664 << 20)
    assert outcome([make_row(), eager], goal).ratio == pytest.approx(0.01)


@pytest.mark.parametrize("other", [[], [("eager", {"forward_seconds": None, "status": "missing"})]])
def test_without_a_figure_a_goal_stays_open(make_row, other):
    rows = [make_row(), *(make_row(name, **changes) for name, changes in other)]
    found = outcome(rows, Goal(figure="forward", against="eager", factor=1))
    assert (found.met, found.ratio) == (None, None)


def test_goals_of_other_cases_and_rows_of_others_are_left_alone(make_row):
    goal = Goal(figure="forward", against=LIMIT, factor=1, when=lambda _: False)
    rows = with_goals([make_row(), make_row("eager")], SIZES, [goal])
    assert [row.goals for row in rows] == [(), ()]


@pytest.mark.parametrize(
    ("figure", "factor", "text"),
    [
        ("forward", 1, "forward faster than x"),
        ("forward+backward", 1.15, "forward+backward within 1.15 x of x"),
        ("forward+backward", 1 / 5, "forward+backward 5 x as fast as x"),
        ("scratch", 0.01, "scratch at most 1 % of that of x"),
    ],
)
def test_goals_in_words(figure, factor, text):
    assert Goal(figure=figure, against="x", factor=factor).text == text
