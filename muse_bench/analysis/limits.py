"""The limits of the regression gate: how much a figure may grow, and which cases grew beyond."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from muse_bench.analysis.difference import FIGURES, PARTS, Change, Matched, Pair, change, successor
from muse_bench.errors import UsageError
from muse_bench.record import Record
from muse_bench.units import parse_bytes, parse_count

DEFAULT = "peak:2%"
WHATS = (*FIGURES, *PARTS)
Standing = Literal["ok", "FAIL", "new", "skipped"]


@dataclass(frozen=True, slots=True)
class Limit:
    """How much one figure may grow: by a share of what it was, or by an amount."""

    what: str
    text: str
    share: Fraction | None = None
    amount: int = 0

    def __str__(self) -> str:
        return f"{self.what}:{self.text}"

    def admits(self, found: Change) -> bool:
        """Whether the growth is within the limit; what is not known is not."""
        if found.growth is None or found.before is None:
            return False
        allowed = self.amount if self.share is None else self.share * Fraction(found.before)
        return Fraction(found.growth) <= allowed


@dataclass(frozen=True, slots=True)
class Outcome:
    """One limit held against one case."""

    limit: Limit
    change: Change

    @property
    def kept(self) -> bool:
        """Whether the case is within it."""
        return self.limit.admits(self.change)


@dataclass(frozen=True, slots=True)
class Judged:
    """One case and how it stands: what was held against it, or the reason why nothing was."""

    record: Record
    standing: Standing
    pair: Pair | None = None
    outcomes: tuple[Outcome, ...] = ()
    reason: str | None = None


def parse_limit(text: str) -> Limit:
    """Text such as 'peak:2%', 'peak:10MiB' or 'parameters:0'.

    Raises: UsageError for an unknown figure, and for what is no limit of it.
    """
    what, colon, size = (part.strip() for part in text.partition(":"))
    if what not in WHATS:
        raise UsageError(f"--fail-on '{text}': '{what}' is unknown: choose from {', '.join(WHATS)}")
    if share := re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", size, re.ASCII):
        return Limit(what, size, share=Fraction(share[1]) / 100)
    if size == "0":
        return Limit(what, size)
    if not colon or not size or what == "step":
        raise UsageError(f"--fail-on '{text}' has no limit: write a share or 0, such as {what}:2%")
    amount = parse_count(size) if what == "parameters" else parse_bytes(size)
    return Limit(what, size, amount=amount)


def judge_cases(matched: Matched, limits: Sequence[Limit]) -> tuple[Judged, ...]:
    """Every case of both runs: those in both against the limits, then those that are gone, then the new."""
    gone = (Judged(record, "FAIL", reason=_missing(record, matched.new)) for record in matched.gone)
    new = (Judged(record, "new", reason="not in the baseline") for record in matched.new)
    return (*(_judge(pair, limits) for pair in matched.pairs), *gone, *new)


def _judge(pair: Pair, limits: Sequence[Limit]) -> Judged:
    if not pair.finished:
        was, now = pair.before.status, pair.after.status
        worse = now not in (was, "ok") or now == "crashed"
        return Judged(pair.after, "FAIL" if worse else "skipped", pair, reason=f"{was} in the baseline, {now} now")
    outcomes = tuple(Outcome(limit, change(pair, limit.what)) for limit in limits)
    return Judged(pair.after, "ok" if all(one.kept for one in outcomes) else "FAIL", pair, outcomes)


def _missing(record: Record, new: Sequence[Record]) -> str:
    """That the case is missing, and what took its place, if something did."""
    pair = successor(record, new)
    return "missing" if pair is None else f"missing; in its place {', '.join(pair.altered)}"
