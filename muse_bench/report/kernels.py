"""The tables of the kernel benchmarks: a table for each kernel, then its goals; and the rows as CSV."""

import csv
import dataclasses
import io
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from muse_bench.kernel_bench.benchmark import OURS
from muse_bench.kernel_bench.record import GoalOutcome, KernelRow, KernelRun
from muse_bench.report.sheet import Sheet
from muse_bench.report.words import plain
from muse_bench.units import format_mib

HEADINGS = ("with", "forward", "limit", "x ours", "fwd+bwd", "limit", "x ours", "peak")
ENDINGS = {"missing": "is not installed", "skipped": "was skipped", "oom": "ran out of memory", "crashed": "failed"}
LAUNCH_BOUND = 1.25  # a wall clock this far above the device's says that launching takes the time
EXPLANATION = (
    "Milliseconds on the device, medians. limit: the share of the limit that is reached. x ours: its time over ours; "
    "above 1 it is slower than ours. peak: MiB beyond the inputs, forward and backward. Goals: ours over theirs.",
    "The limit is what the bytes that must move, or the operations, take at the card's own measured rates, whichever "
    "is more. Inputs and outputs rotate through more memory than the L2 cache holds.",
)


def kernel_sheets(run: KernelRun) -> list[Sheet]:
    """A table for each case, then the goals that were not met."""
    return [*map(_case, by_case(run)), _goals(run)]


def by_case(run: KernelRun) -> list[list[KernelRow]]:
    """The rows of each case together, ours first."""
    return [list(rows) for _, rows in groupby(run.rows, key=lambda row: (row.kernel, row.case))]


def case_title(rows: Sequence[KernelRow]) -> str:
    """The kernel and its case."""
    return plain(f"{rows[0].kernel}: {rows[0].case}")


def render_csv(run: KernelRun) -> str:
    """A line for each implementation of each case: seconds and bytes; a missing value is empty."""
    lines = [_flat(row) for row in run.rows]
    names = list(dict.fromkeys(name for line in lines for name in line))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def _case(rows: Sequence[KernelRow]) -> Sheet:
    ours = next((row for row in rows if row.contender == OURS), None)
    return Sheet(
        title=case_title(rows),
        headings=HEADINGS,
        rows=[_cells(row, ours) for row in rows],
        notes=(*_failures(rows), *_launch_bound(rows), *_goal_lines(() if ours is None else ours.goals)),
    )


def _cells(row: KernelRow, ours: KernelRow | None) -> tuple[str, ...]:
    forward, both = row.forward_seconds, row.forward_backward_seconds
    absent = "-" if row.status == "ok" else row.status
    return (
        plain(row.contender),
        absent if forward is None else milliseconds_text(forward),
        share_text(row.forward_limit_seconds, forward),
        _times(forward, None if ours is None else ours.forward_seconds, row),
        absent if both is None else milliseconds_text(both),
        share_text(row.forward_backward_limit_seconds, both),
        _times(both, None if ours is None else ours.forward_backward_seconds, row),
        format_mib(row.peak_bytes),
    )


def _goal_lines(goals: Sequence[GoalOutcome]) -> Iterator[str]:
    """What became of the goals of a case, in a line for each verdict."""
    for word in ("met", "missed", "not measured"):
        found = [f"{goal.goal} ({_found(goal)})" for goal in goals if _verdict(goal.met) == word]
        if found:
            yield plain(f"{word}: {'; '.join(found)}")


def _goals(run: KernelRun) -> Sheet:
    goals = [(row, goal) for row in run.rows for goal in row.goals]
    met = sum(goal.met is True for _, goal in goals)
    return Sheet(
        title=f"Goals: {met} of {len(goals)} met" + ("; the others:" if 0 < met < len(goals) else ""),
        headings=("kernel and case", "goal", "found", "verdict"),
        rows=[
            (plain(f"{row.kernel}: {row.case}"), plain(goal.goal), _found(goal), _verdict(goal.met))
            for row, goal in goals
            if not goal.met
        ],
        labels=2,
        notes=(*EXPLANATION, _rates(run)),
    )


def _found(goal: GoalOutcome) -> str:
    """The share of the limit, else ours over theirs."""
    if goal.ratio is None:
        return "-"
    if "the limit" in goal.goal:
        return f"{1 / goal.ratio * 100:.0f} %" if goal.ratio else "-"
    if goal.goal.startswith("scratch"):
        return f"{goal.ratio * 100:.2f} %"
    return f"{goal.ratio:.2f} x"


def _verdict(met: bool | None) -> str:
    return "not measured" if met is None else "met" if met else "missed"


def _failures(rows: Sequence[KernelRow]) -> Iterator[str]:
    """A line for each implementation that lacks figures, with its reason."""
    for row in rows:
        if row.status != "ok":
            yield plain(f"{row.contender} {ENDINGS[row.status]}{': ' if row.reason else ''}{row.reason or ''}")


def _launch_bound(rows: Sequence[KernelRow]) -> Iterator[str]:
    """A line on those whose caller waits for launches rather than for the device."""
    found = []
    for row in rows:
        forward, both = row.forward_wall_seconds, row.forward_backward_wall_seconds
        if _waits(row.forward_seconds, forward) or _waits(row.forward_backward_seconds, both):
            found.append(f"{row.contender} {milliseconds_text(forward)} and {milliseconds_text(both)}")
    if found:
        yield plain(f"launch-bound, by the wall clock forward and fwd+bwd: {'; '.join(found)}")


def _waits(device: float | None, wall: float | None) -> bool:
    return device is not None and wall is not None and wall > LAUNCH_BOUND * device


def _rates(run: KernelRun) -> str:
    rates, environment = run.rates, run.environment
    products = ", ".join(
        f"{name} {getattr(rates, f'{name}_operations_per_second') / 1e12:,.0f}" for name in ("bf16", "fp16", "fp32")
    )
    card = f"{environment.gpu or 'unknown GPU'}: copies {rates.copy_bytes_per_second / 1e12:.2f} TB/s"
    commit = f", commit {environment.commit}" if environment.commit else ""
    return plain(
        f"{card}, products {products} TFLOP/s; muse-bench {environment.muse_bench}{commit}, torch {environment.torch}, "
        f"triton {environment.triton}."
    )


def _flat(row: KernelRow) -> dict[str, Any]:
    values = {**dataclasses.asdict(row), "scratch_bytes": row.scratch_bytes}
    values["sizes"] = " ".join(f"{name}={size}" for name, size in row.sizes.items())
    values["goals"] = "; ".join(f"{goal.goal}: {_verdict(goal.met)} ({_found(goal)})" for goal in row.goals)
    return values


def milliseconds_text(seconds: float | None) -> str:
    """Three significant digits or more: 0.0123, 1.23, 123."""
    if seconds is None:
        return "-"
    value = seconds * 1_000
    decimals = 4 if value < 0.1 else 3 if value < 1 else 2 if value < 100 else 1
    return f"{value:,.{decimals}f}"


def share_text(limit: float | None, seconds: float | None) -> str:
    """The share of the limit that is reached."""
    return "-" if limit is None or not seconds else f"{limit / seconds * 100:.0f} %"


def _times(theirs: float | None, ours: float | None, row: KernelRow) -> str:
    return "" if row.contender == OURS else "-" if theirs is None or not ours else f"{theirs / ours:.2f}"
