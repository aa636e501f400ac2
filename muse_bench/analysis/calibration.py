"""What a calibration says: errors by part of the matrix, verdicts that came true, and what other predictors say."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from muse_bench.analysis.accuracy import Pair, Summary, case_key, relative_error, summarise
from muse_bench.analysis.verdict import judge
from muse_bench.calibration.cases import PARTS, build_case
from muse_bench.execution.blank import blank_record
from muse_bench.record import Record
from muse_bench.units import GIB

OTHER = "other"
OURS = "muse-bench"
WITH_WORKSPACES = "+workspaces"  # on the name of a predictor that knows none: with those that are predicted here
KNOW_NO_WORKSPACES = ("mem-tracker", "mem-tracker-cuda")
BUDGETS = tuple(size * GIB for size in (1, 2, 3, 4, 6, 8))
HEADROOM = 0.1  # what --headroom is unless told


@dataclass(frozen=True, slots=True)
class VerdictCount:
    """How many predicted verdicts for one budget came true; wrong is a PASS that fails, or a FAIL that passes."""

    budget_bytes: int
    passes_right: int
    passes_wrong: int
    fails_right: int
    fails_wrong: int
    inconclusive: int


@dataclass(frozen=True, slots=True)
class PeerSummary:
    """One predictor's errors of the steady peak over the cases of one part that were put to the predictors."""

    predictor: str
    part: str
    without_answer: int
    errors: Summary | None


def part_of(record: Record) -> str:
    """The part of the calibration matrix that the record's case is in, or 'other'."""
    return _matrix().get(case_key(record), OTHER)


def by_part(pairs: Iterable[Pair]) -> dict[str, list[Pair]]:
    """The pairs of each part that has some, in the matrix's order, the others last."""
    found: dict[str, list[Pair]] = {part: [] for part in (*PARTS, OTHER)}
    for pair in pairs:
        found[part_of(pair.measured)].append(pair)
    return {part: group for part, group in found.items() if group}


def count_verdicts(pairs: Sequence[Pair], budget_bytes: int) -> VerdictCount:
    """The predicted verdicts against whether the measured device stayed within the limit; without that, not counted."""
    limit = int(budget_bytes * (1 - HEADROOM))
    found = dict.fromkeys((("PASS", True), ("PASS", False), ("FAIL", True), ("FAIL", False)), 0)
    inconclusive = 0
    for pair in pairs:
        used = pair.measured.device_peak_bytes
        if used is None:
            continue
        asked = dataclasses.replace(pair.predicted, budget_bytes=budget_bytes, limit_bytes=limit)
        verdict = judge(asked).verdict
        if verdict == "INCONCLUSIVE" or verdict is None:
            inconclusive += 1
        else:
            found[verdict, used <= limit] += 1
    return VerdictCount(
        budget_bytes=budget_bytes,
        passes_right=found["PASS", True],
        passes_wrong=found["PASS", False],
        fails_right=found["FAIL", False],
        fails_wrong=found["FAIL", True],
        inconclusive=inconclusive,
    )


def compare_peers(pairs: Iterable[Pair]) -> list[PeerSummary]:
    """This predictor and the others by part, over the cases that the others were asked about."""
    return [
        _summarise_peer(name, part, group)
        for part, group in by_part(pair for pair in pairs if pair.predicted.peers).items()
        for name in (OURS, *_predictors(group))
    ]


def _predictors(pairs: Iterable[Pair]) -> Iterator[str]:
    """Those that were asked, each that knows no workspaces also with them."""
    for name in dict.fromkeys(name for pair in pairs for name in pair.predicted.peers):
        yield name
        if name in KNOW_NO_WORKSPACES:
            yield f"{name}{WITH_WORKSPACES}"


def _summarise_peer(predictor: str, part: str, pairs: Iterable[Pair]) -> PeerSummary:
    name = predictor.removesuffix(WITH_WORKSPACES)
    asked = [pair for pair in pairs if name == OURS or name in pair.predicted.peers]
    answers = [_answer(pair, name, with_workspaces=name != predictor) for pair in asked]
    errors = summarise(
        relative_error(answer, pair.measured.peak_allocated_bytes) for pair, answer in zip(asked, answers, strict=True)
    )
    return PeerSummary(predictor, part, answers.count(None), errors)


def _answer(pair: Pair, name: str, *, with_workspaces: bool) -> int | None:
    record = pair.predicted
    answer = record.peak_allocated_bytes if name == OURS else record.peers[name]
    if answer is None or not with_workspaces:
        return answer
    return None if record.ledger is None else answer + record.ledger.workspace


@functools.cache
def _matrix() -> Mapping[tuple[object, ...], str]:
    """The part of every case of the matrix."""
    return {
        case_key(blank_record(build_case(row), "measured", None)): part for part, rows in PARTS.items() for row in rows
    }
