"""Claims and what was found beside them: the tables, the summary, and the rows as CSV and JSON."""

import csv
import dataclasses
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from muse_bench.analysis.claims.answers import value_text
from muse_bench.analysis.claims.claim import Claim
from muse_bench.analysis.claims.figures import Found
from muse_bench.analysis.claims.rule import CRITERIA, VERDICTS, Answer
from muse_bench.record import RunFile
from muse_bench.report.sheet import Sheet
from muse_bench.report.words import plain, software

HEADINGS = ("id", "figure", "claimed", "found", "sound", "ours", "verdict")
COLUMNS = (
    "found: under their protocol; sound: under a sound one, in one mode, causal, with cross-entropy and the optimizer, "
    "in the steady state, workspaces apart; ours: what muse or streamed reaches. In the unit of the claim."
)


def summary(answers: Sequence[Answer], run: RunFile) -> Sheet:
    """How many claims got which verdict, with its criterion."""
    counts = Counter(one.verdict for one in answers)
    return Sheet(
        title=f"{len(answers)} claim{'s' if len(answers) > 1 else ''} of two reports, settled",
        headings=("verdict", "criterion", "claims"),
        rows=[(verdict, CRITERIA[verdict], str(counts[verdict])) for verdict in VERDICTS if counts[verdict]],
        labels=2,
        notes=(*_origins(answers), f"{software(run)}."),
    )


def sheets(answers: Sequence[Answer], run: RunFile, *, wide: bool) -> list[Sheet]:
    """The summary, then the claims by report and sizes; `wide` gives reasons a column rather than a line each."""
    found = [summary(answers, run)]
    for (report, config), group in itertools.groupby(answers, key=_place):
        title = f"{report.replace('-', ' ').capitalize()}: {config or 'no sizes'}"
        rows = list(group)
        found.append(
            Sheet(
                title=plain(title),
                headings=(*HEADINGS, "why") if wide else HEADINGS,
                rows=[_cells(one, wide) for one in rows],
                labels=2,
                ends=2 if wide else 1,
                notes=(*(() if wide else _reasons(rows)), *_protocols(rows)),
            )
        )
    return [*found[:-1], dataclasses.replace(found[-1], notes=(*found[-1].notes, COLUMNS))]


def headline(answers: Sequence[Answer], ids: Sequence[str], run: RunFile) -> list[Sheet]:
    """The summary of all, and those of these ids in one table with their reasons."""
    rows = [_cells(one, wide=True) for one in answers if one.claim.id in ids]
    headings = (*HEADINGS, "why")
    table = Sheet(title="Claimed and found", headings=headings, rows=rows, labels=2, ends=2, notes=(COLUMNS,))
    return [summary(answers, run), table]


def render_csv(answers: Sequence[Answer]) -> str:
    """A line for each claim; what was not found is empty."""
    stream = io.StringIO()
    lines = [_flat(one) for one in answers]
    writer = csv.DictWriter(stream, list(lines[0]), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def render_json(answers: Sequence[Answer], run: RunFile) -> str:
    """The run's records, as `--from` reads them, and the claims beside them."""
    lines = ",\n".join(f"  {json.dumps(_flat(one), allow_nan=False)}" for one in answers)
    return f'{run.to_json().rstrip().removesuffix("}").rstrip()},\n "claims": [\n{lines}\n ]\n}}\n'


def _place(one: Answer) -> tuple[str, str]:
    return one.claim.report, one.claim.config


def _cells(one: Answer, wide: bool) -> tuple[str, ...]:
    claim = one.claim
    figure = f"{claim.model}: {claim.metric}, {_unit(claim)}"
    values = (value_text(found, claim.unit) for found in (one.theirs, one.sound, one.ours))
    cells = (claim.id, figure, claim.claimed, *values, one.verdict)
    return tuple(map(plain, (*cells, one.reason) if wide else cells))


def _reasons(rows: Sequence[Answer]) -> Iterator[str]:
    return (plain(f"{one.claim.id}: {one.reason}") for one in rows)


def _unit(claim: Claim) -> str:
    return {"yes/no": "yes or no", "x": "times", "verdict": "for 8 GB"}.get(claim.unit, claim.unit)


def _protocols(rows: Sequence[Answer]) -> Iterator[str]:
    """How they ran it, with the claims that it is about where it is not all of them."""
    said = [_protocol(one) for one in rows]
    for protocol in dict.fromkeys(said):
        ids = [one.claim.id for one, own in zip(rows, said, strict=True) if own == protocol]
        about = "" if len(ids) == len(rows) else f"{', '.join(ids)}: "
        yield plain(f"{about}{protocol}")


def _protocol(one: Answer) -> str:
    mode = "" if one.protocol.startswith(one.claim.mode) else f"{one.claim.mode}: "
    return f"{mode}{one.protocol}"


def _origins(answers: Sequence[Answer]) -> Iterator[str]:
    """Where figures are from, with how many of each column."""
    sides = {"found": "theirs", "sound": "sound", "ours": "ours"}
    for name, side in sides.items():
        counts = Counter(found.origin for one in answers if (found := getattr(one, side)) is not None)
        if counts:
            yield plain(f"{name}: " + "; ".join(f"{count} {origin}" for origin, count in counts.most_common()))


def _flat(one: Answer) -> dict[str, Any]:
    found: dict[str, Found | None] = {"theirs": one.theirs, "sound": one.sound, "ours": one.ours}
    values = {side: None if known is None else known.value for side, known in found.items()}
    origins = {f"{side}_origin": None if known is None else known.origin for side, known in found.items()}
    return {
        **dataclasses.asdict(one.claim),
        "protocol": one.protocol,
        **values,
        **origins,
        "verdict": one.verdict,
        "reason": one.reason,
    }
