"""Answers: every claim settled by its rule from the evidence."""

from collections.abc import Iterable, Sequence

from muse_bench.analysis.claims.claim import Claim
from muse_bench.analysis.claims.evaluation import evaluation
from muse_bench.analysis.claims.evidence import Evidence
from muse_bench.analysis.claims.figures import Figure, Found, QualityLoss
from muse_bench.analysis.claims.final_report import final_report
from muse_bench.analysis.claims.question import Question
from muse_bench.analysis.claims.rule import Answer, Rule, decide

SUFFIXES = {"%": " %", "x": " times", "MiB": " MiB", "M params": " M", "K params": " K"}


def rules() -> dict[str, Rule]:
    """The rule of every claim, by its id."""
    return {**final_report(), **evaluation()}


def questions_of(claims: Iterable[Claim]) -> list[Question]:
    """The cases that the claims need, each once, those that no GPU has to be timed for."""
    known = rules()
    asked = (
        question
        for claim in claims
        for figure in _figures(known[claim.id])
        if not getattr(figure, "timed", False)
        for question in figure.questions
    )
    return list(dict.fromkeys(asked))


def untrained(claims: Iterable[Claim], evidence: Evidence) -> list[str]:
    """The models whose quality the claims need and no saved training has, in their order; their baseline first."""
    known = rules()
    wanted = [
        figure
        for claim in claims
        for figure in _figures(known[claim.id])
        if isinstance(figure, QualityLoss) and evidence.perplexities(figure.model, figure.against) is None
    ]
    return list(dict.fromkeys([*(figure.against for figure in wanted), *(figure.model for figure in wanted)]))


def answer_all(claims: Sequence[Claim], evidence: Evidence) -> list[Answer]:
    """An answer to each claim."""
    known = rules()
    return [answer(claim, known[claim.id], evidence) for claim in claims]


def answer(claim: Claim, rule: Rule, evidence: Evidence) -> Answer:
    """What is found about a claim, and the verdict."""
    found = {
        "theirs": None if rule.theirs is None else rule.theirs.find(evidence, "theirs"),
        "sound": None if rule.sound is None else rule.sound.find(evidence, "sound"),
        "ours": None if rule.ours is None else rule.ours.find(evidence, "ours"),
    }
    verdict = decide(rule, claim, found)
    missing = verdict == "not measurable here"
    return Answer(
        claim=claim,
        protocol=rule.protocol,
        **found,
        verdict=verdict,
        reason=_missing(rule, evidence) if missing else _reason(rule, claim, found),
    )


def value_text(found: Found | None, unit: str) -> str:
    """A value as it stands in a table, without its unit; a dash where there is none."""
    if found is None:
        return "-"
    if isinstance(found.value, str):
        return found.value
    decimals = 2 if unit in ("x", "growth exponent", "M params") or (unit == "%" and 99 < found.value < 100) else 1
    return f"{found.value:,.{decimals}f}"


def _reason(rule: Rule, claim: Claim, found: dict[str, Found | None]) -> str:
    suffix = SUFFIXES.get(claim.unit, "")
    texts = {
        side: f"{value_text(one, claim.unit)}{'' if one is None or isinstance(one.value, str) else suffix}"
        for side, one in found.items()
    }
    return rule.reason.format(**{side: "unknown here" if text == "-" else text for side, text in texts.items()})


def _missing(rule: Rule, evidence: Evidence) -> str:
    """What would settle it."""
    figure = {"theirs": rule.theirs, "sound": rule.sound, "ours": rule.ours}[rule.settles]
    losses = [one for one in _with_inside(figure) if isinstance(one, QualityLoss)]
    if any(loss.find(evidence, rule.settles) is None for loss in losses):
        return "No saved training of both models: name one with --records, or train with --run-training."
    if getattr(figure, "timed", False):
        return "No saved times on a GPU: name records with --records, or run this on one."
    return "No saved record of it: name one with --records, or run it on a GPU."


def _figures(rule: Rule) -> list[Figure]:
    return [one for figure in (rule.theirs, rule.sound, rule.ours) for one in _with_inside(figure)]


def _with_inside(figure: Figure | None) -> list[Figure]:
    """A figure and its own figures, such as the quality behind what is possible."""
    if figure is None:
        return []
    values = (getattr(figure, name) for name in getattr(type(figure), "__slots__", ()))
    return [figure, *(value for value in values if isinstance(value, Figure))]
