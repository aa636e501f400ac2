"""The tables of the doctor: the facts, what can be measured, then an outcome for each kernel in each dtype."""

from collections import defaultdict
from collections.abc import Sequence

from muse_bench.doctor.record import Checkup, KernelOutcome
from muse_bench.report.sheet import Sheet
from muse_bench.report.words import percent_text, plain

DTYPES = ("fp32", "bf16", "fp16")
WORDS = {"wrong": "WRONG", "oom": "no memory", "crashed": "CRASHED"}
EXPLANATION = (
    "The largest error of an output or a gradient, as a share of what is allowed: twice what plain PyTorch errs in the "
    "same dtype, and one unit in the last place, both against float64."
)


def checkup_sheets(checkup: Checkup) -> list[Sheet]:
    """What the machine has, what it can measure, and the kernels where they were checked."""
    kernels = [kernels_sheet(checkup.kernels)] if checkup.kernels else []
    return [facts_sheet(checkup), abilities_sheet(checkup), *kernels]


def facts_sheet(checkup: Checkup) -> Sheet:
    """A line a fact."""
    rows = [(fact.what, fact.state, plain(fact.found), plain(fact.advice or "")) for fact in checkup.facts]
    return Sheet(title=plain(checkup.summary), headings=("what", "state", "found", "what to do"), rows=rows, labels=4)


def abilities_sheet(checkup: Checkup) -> Sheet:
    """A line for each kind of figure."""
    rows = [(one.what, one.source, plain(one.found), plain(one.advice or "")) for one in checkup.abilities]
    headings = ("figure", "here", "how, or why not", "for more")
    return Sheet(title="What can be measured here", headings=headings, rows=rows, labels=4)


def kernels_sheet(kernels: Sequence[KernelOutcome]) -> Sheet:
    """A line an operation; below it what is wrong, each reason once."""
    found: dict[str, dict[str, KernelOutcome]] = defaultdict(dict)
    for one in kernels:
        found[one.operation][one.dtype] = one
    rows = [(name, *(_cell(outcomes.get(dtype)) for dtype in DTYPES)) for name, outcomes in found.items()]
    good = sum(one.status == "ok" for one in kernels)
    title = f"Self-check of the kernels: {good} of {len(kernels)} pass"
    return Sheet(title=title, headings=("kernel", *DTYPES), rows=rows, notes=(*_failures(kernels), EXPLANATION))


def _cell(outcome: KernelOutcome | None) -> str:
    if outcome is None:
        return "-"
    return percent_text(outcome.worst_share) if outcome.status == "ok" else WORDS[outcome.status]


def _failures(kernels: Sequence[KernelOutcome]) -> list[str]:
    names: dict[str, list[str]] = defaultdict(list)
    for one in kernels:
        if one.status != "ok":
            names[f"{WORDS[one.status]}: {one.reason}"].append(f"{one.operation} {one.dtype}")
    return [plain(f"{', '.join(listed)} {reason}") for reason, listed in names.items()]
