"""Rules: how a claim is settled, as data; and the verdict, whose criteria stand here and in the documents."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from muse_bench.analysis.claims.claim import Claim
from muse_bench.analysis.claims.figures import Figure, Found

Verdict = Literal["reproduced", "reproduced with a caveat", "not reproduced", "exceeded", "not measurable here"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
CRITERIA: dict[Verdict, str] = {
    "reproduced": "under their protocol the figure is found, and a sound protocol gives it too, where there is one to "
    "compare; found is within 1 % or the last digit, a share within 1 point, an exponent within 0.1, a range inside it",
    "reproduced with a caveat": "under their protocol it is found, but a sound protocol gives another figure, or the "
    "name says something else than is counted, or only a sound protocol gives it",
    "not reproduced": "another figure is found",
    "exceeded": "what is found is better than claimed: under their protocol, or, where a bound or a wish is claimed, "
    "by what runs here",
    "not measurable here": "nothing at hand settles it: it needs a GPU, a training or a record that is not there",
}
Better = Literal["less", "more"]
SHARE_POINTS, EXPONENT, RELATIVE = 1.0, 0.1, 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How one claim is settled.

    `protocol` says how they ran it. `theirs` is the figure under it, `sound` under a sound protocol, `ours` what this
    project reaches. `settles` names the figure that decides. `better` is the direction in which a figure is better
    than claimed; without one any difference is a miss. A `bound` is passed or it is not; with `at_most` less is as
    good as the same. `caveat` says that the name promises something else than the figure counts; `refused` that the
    figure compares what is not alike, so that the sound one settles it. `reason` is a sentence or two, in which
    {theirs}, {sound} and {ours} stand for what was found. `relative` is how far a size may be off, where not 1 %.
    """

    protocol: str
    reason: str
    theirs: Figure | None = None
    sound: Figure | None = None
    ours: Figure | None = None
    settles: Literal["theirs", "sound", "ours"] = "theirs"
    better: Better | None = None
    bound: bool = False
    at_most: bool = False
    caveat: bool = False
    refused: bool = False
    relative: float = RELATIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A claim with what was found, and the verdict with its reason."""

    claim: Claim
    protocol: str
    theirs: Found | None
    sound: Found | None
    ours: Found | None
    verdict: Verdict
    reason: str


def decide(rule: Rule, claim: Claim, found: dict[str, Found | None]) -> Verdict:
    """The verdict, by the criteria."""
    settling = found["sound" if rule.refused else rule.settles]
    if settling is None:
        return "not measurable here"
    place = _place(rule, claim, settling)
    if place == "better":
        return "exceeded"
    if place == "worse":
        return "not reproduced"
    sound = found["sound"]
    elsewhere = rule.settles == "theirs" and sound is not None and _place(rule, claim, sound) != "same"
    return "reproduced with a caveat" if rule.caveat or rule.refused or elsewhere else "reproduced"


def _place(rule: Rule, claim: Claim, found: Found) -> Literal["same", "better", "worse"]:
    """Where what was found lies beside what is claimed."""
    bounds = claim.bounds
    if bounds is None or isinstance(found.value, str):
        same = str(found.value) == claim.claimed
        return "same" if same else "better" if rule.better else "worse"
    low, high = bounds
    if rule.bound:
        passed = found.value < low if rule.better == "less" else found.value >= high
        return "better" if passed else "worse"
    margin = _margin(rule, claim, low)
    if (rule.at_most or low - margin <= found.value) and found.value <= high + margin:
        return "same"
    is_better = found.value < low if rule.better == "less" else found.value > high
    return "better" if rule.better is not None and is_better else "worse"


def _margin(rule: Rule, claim: Claim, value: float) -> float:
    if claim.unit == "%":
        return SHARE_POINTS
    if claim.unit == "growth exponent":
        return EXPONENT
    if claim.unit == "x":
        return 0.0
    decimals = len(claim.claimed.rpartition("-")[2].partition(".")[2])
    return max(abs(value) * rule.relative, 0.5 * 10.0**-decimals)


def numbered(letter: str, first: int, rules: Iterable[Rule]) -> dict[str, Rule]:
    """The rules by id, from this number on."""
    return {f"{letter}{first + place:02}": rule for place, rule in enumerate(rules)}
