"""The claims: each figure of the two reports, as they state it."""

import csv
import fnmatch
import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass, fields

from muse_bench.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One figure: its place, what it is about, and its value in its unit, as text."""

    id: str
    report: str
    model: str
    metric: str
    config: str
    mode: str
    claimed: str
    unit: str
    note: str

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The least and the most that the claim names; None for a word."""
        try:
            low, _, high = self.claimed.partition("-")
            return float(low), float(high or low)
        except ValueError:
            return None


def read_claims() -> tuple[Claim, ...]:
    """All claims, in the order of the reports."""
    source = importlib.resources.files("muse_bench.analysis.claims").joinpath("claims.csv")
    lines = source.read_text(encoding="utf-8").splitlines()
    return tuple(Claim(**{f.name: row[f.name] for f in fields(Claim)}) for row in csv.DictReader(lines))


def choose_claims(claims: Sequence[Claim], patterns: str | None) -> tuple[Claim, ...]:
    """Those whose id matches one of 'F02,E*'; all without patterns. Raises: UsageError for one that matches none."""
    if patterns is None:
        return tuple(claims)
    wanted = [pattern.strip().upper() for pattern in patterns.split(",")]
    for pattern in wanted:
        if not any(fnmatch.fnmatchcase(claim.id, pattern) for claim in claims):
            raise UsageError(f"--only '{pattern}' is no claim: give ids from F01 to F75 and E01 to E37, or F*")
    return tuple(claim for claim in claims if any(fnmatch.fnmatchcase(claim.id, pattern) for pattern in wanted))
