"""Goals held against what was measured."""

import dataclasses
from collections.abc import Sequence

from muse_bench.kernel_bench.benchmark import LIMIT, OURS, Figure, Goal, S
from muse_bench.kernel_bench.record import GoalOutcome, KernelRow


def with_goals(rows: Sequence[KernelRow], sizes: S, goals: Sequence[Goal[S]]) -> list[KernelRow]:
    """The rows of one case, our own with what became of its goals."""
    wanted = [goal for goal in goals if goal.when(sizes)]
    return [dataclasses.replace(row, goals=_outcomes(row, rows, wanted)) if _is_ours(row) else row for row in rows]


def _outcomes(ours: KernelRow, rows: Sequence[KernelRow], goals: Sequence[Goal[S]]) -> tuple[GoalOutcome, ...]:
    others = {row.contender: row for row in rows}
    return tuple(_outcome(goal, ours, others.get(goal.against)) for goal in goals)


def _outcome(goal: Goal[S], ours: KernelRow, other: KernelRow | None) -> GoalOutcome:
    mine, theirs = _figure(ours, goal.figure), None
    if goal.against == LIMIT:
        theirs = ours.forward_limit_seconds if goal.figure == "forward" else ours.forward_backward_limit_seconds
    elif other is not None:
        theirs = _figure(other, goal.figure)
    ratio = None if mine is None or not theirs else mine / theirs
    met = None if ratio is None else ratio <= goal.factor
    return GoalOutcome(goal=goal.text, at_most=goal.factor, ratio=ratio, met=met)


def _figure(row: KernelRow, figure: Figure) -> float | None:
    if figure == "forward":
        return row.forward_seconds
    return row.forward_backward_seconds if figure == "forward+backward" else row.scratch_bytes


def _is_ours(row: KernelRow) -> bool:
    return row.contender == OURS
