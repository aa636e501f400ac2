"""The difference of two runs as tables: the peak of each case, then what grew in it, by category and by module."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from muse_bench.analysis.difference import FIGURES, PARTS, Change, Figure, Matched, Pair, case_name, changes, places
from muse_bench.analysis.difference import change as change_of
from muse_bench.record import RunFile, join_commands
from muse_bench.report import words
from muse_bench.report.sheet import Sheet, render_markdown
from muse_bench.units import MIB, format_bytes

MOST_PLACES = 10
HEADINGS = ("before", "after", "growth", "share")


@dataclass(frozen=True, slots=True)
class Difference:
    """Two runs and their cases side by side; `remarks` say what else they differ in."""

    before: RunFile
    after: RunFile
    matched: Matched
    remarks: tuple[str, ...] = ()

    def name(self, pair: Pair) -> str:
        """The case's name in tables."""
        return words.plain(case_name(pair.after, self.after.records))


def sheets(difference: Difference) -> list[Sheet]:
    """An overview of the peaks, and for each case that changed its figures and the places of the change."""
    changed = [pair for pair in difference.matched.pairs if is_changed(pair)]
    rows = [(difference.name(pair), *cells(change_of(pair, "peak"))) for pair in difference.matched.pairs]
    overview = Sheet(
        title="Peak, before and after",
        headings=("case", *HEADINGS),
        rows=rows,
        notes=(*_notes(difference), *_unchanged(difference, changed)),
    )
    return [overview, *(sheet for pair in changed for sheet in _detail(difference.name(pair), pair))]


def is_changed(pair: Pair) -> bool:
    """Whether any figure or part of the ledger is not what it was."""
    return bool(changes(pair, (*FIGURES, *PARTS)))


def figures_sheet(name: str, pair: Pair) -> Sheet:
    """What changed in one case: its figures, then the parts of its ledger, the largest growth first."""
    parts = sorted(changes(pair, PARTS), key=lambda one: one.growth or 0, reverse=True)
    rows = [(title(one.what), *cells(one)) for one in (*changes(pair, FIGURES), *parts)]
    return Sheet(f"{name}: what changed", ("what", *HEADINGS), rows)


def places_sheet(name: str, found: Sequence[Change]) -> Sheet:
    """Where in one case: modules and categories, and the lines of the modules' classes where they are known."""
    rows = [
        (words.plain(_place(one)), words.CATEGORIES[PARTS[one.what]], *cells(one)[:3]) for one in found[:MOST_PLACES]
    ]
    more = len(found) - MOST_PLACES
    notes = (f"and {more} smaller",) if more > 0 else ()
    return Sheet(f"{name}: where", ("module", "category", *HEADINGS[:3]), rows, labels=2, notes=notes)


def _place(one: Change) -> str:
    return " ".join(filter(None, (one.module, one.source)))


def title(what: str) -> str:
    """A figure by its name, a part of the ledger, below it, in words."""
    return what if what in FIGURES else f"- {words.CATEGORIES[PARTS[what]]}"


def cells(found: Change) -> tuple[str, str, str, str]:
    """Before, after, growth and its share, as text."""
    share = "-" if found.share is None else f"{found.share * 100:+.1f} %"
    return (
        value_text(found.what, found.before),
        value_text(found.what, found.after),
        growth_text(found),
        share if found.growth else "-",
    )


def growth_text(found: Change) -> str:
    """The growth with its sign."""
    if found.growth is None:
        return "-"
    return f"{'+' if found.growth > 0 else ''}{value_text(found.what, found.growth)}" if found.growth else "0"


def value_text(what: str, value: Figure) -> str:
    """A figure with its unit: bytes where MiB would show nothing of them."""
    if value is None:
        return "-"
    if what == "step":
        return words.duration_text(value)
    if what == "parameters":
        return f"{value:,}"
    return f"{int(value):,} B" if 0 < abs(value) < MIB // 20 else format_bytes(int(value))


def render_document(difference: Difference) -> str:
    """The tables as Markdown."""
    command = join_commands((difference.before.command, difference.after.command))
    return render_markdown(*sheets(difference), command=command)


def render_json(difference: Difference) -> str:
    """Every figure of every case, for other programs."""
    values = {
        **origins(difference.before, difference.after),
        "cases": [_case(difference.name(pair), pair) for pair in difference.matched.pairs],
        "only_before": [case_name(record, difference.before.records) for record in difference.matched.gone],
        "only_after": [case_name(record, difference.after.records) for record in difference.matched.new],
    }
    return json.dumps(values, indent=1) + "\n"


def render_csv(difference: Difference) -> str:
    """One line a figure of a case, and one a category of a module that changed."""
    rows = [
        (difference.name(pair), one.what, one.module or "", one.before, one.after, one.growth)
        for pair in difference.matched.pairs
        for one in (*(change_of(pair, what) for what in (*FIGURES, *PARTS)), *places(pair))
    ]
    return csv_text(("case", "what", "module", "before", "after", "growth"), rows)


def csv_text(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Comma-separated values; what is not known is empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([headings, *rows])
    return stream.getvalue()


def origins(before: RunFile, after: RunFile) -> dict[str, Any]:
    """Where the two runs came from."""
    return {
        name: {"command": run.command, "environment": dataclasses.asdict(run.environment)}
        for name, run in (("before", before), ("after", after))
    }


def explained(pair: Pair) -> dict[str, Any]:
    """What changed in a case by category, and by module, as plain values."""
    found = [{"module": one.module, "category": PARTS[one.what], **_numbers(one)} for one in places(pair)]
    return {"altered": list(pair.altered), "ledger": _table(pair, PARTS), "places": found}


def _case(name: str, pair: Pair) -> dict[str, Any]:
    status = {"status_before": pair.before.status, "status_after": pair.after.status}
    return {"case": name, **status, "figures": _table(pair, FIGURES), **explained(pair)}


def _table(pair: Pair, whats: Iterable[str]) -> dict[str, Any]:
    return {what: _numbers(change_of(pair, what)) for what in whats}


def _numbers(found: Change) -> dict[str, Figure]:
    return {"before": found.before, "after": found.after, "growth": found.growth}


def _detail(name: str, pair: Pair) -> list[Sheet]:
    found = sorted(places(pair), key=lambda one: abs(one.growth or 0), reverse=True)
    return [figures_sheet(name, pair), *([places_sheet(name, found)] if found else [])]


def _notes(difference: Difference) -> list[str]:
    before, after = difference.before, difference.after
    sides = (("before", before), ("after", after))
    gone, new = difference.matched.gone, difference.matched.new
    return [
        *(f"{side}: {origin(run)}" for side, run in sides),
        *map(words.plain, difference.remarks),
        *(
            f"{difference.name(pair)}: {words.plain(', '.join(pair.altered))}"
            for pair in difference.matched.pairs
            if pair.altered
        ),
        *(f"only before: {words.plain(case_name(record, before.records))}" for record in gone),
        *(f"only after: {words.plain(case_name(record, after.records))}" for record in new),
        *(
            f"{side}: {line}"
            for side, run in (("before", before), ("after", after))
            for line in words.failures(run.records)
        ),
    ]


def _unchanged(difference: Difference, changed: Sequence[Pair]) -> list[str]:
    same = [difference.name(pair) for pair in difference.matched.pairs if pair.finished and pair not in changed]
    return [f"unchanged: {', '.join(same)}"] if same else []


def origin(run: RunFile) -> str:
    """Where a run's records are from."""
    return f"{words.origin(run)}; {words.software(run)}"
