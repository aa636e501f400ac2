"""The regression gate's answer: a table of limits with the difference that explains each failure; JUnit; benchmarks."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from muse_bench.analysis.difference import FIGURES, Change, case_name, places
from muse_bench.analysis.limits import Judged
from muse_bench.record import Record, RunFile, join_commands
from muse_bench.report import words
from muse_bench.report.difference import (
    HEADINGS,
    cells,
    csv_text,
    explained,
    figures_sheet,
    growth_text,
    origin,
    origins,
    places_sheet,
    value_text,
)
from muse_bench.report.sheet import Sheet, render_markdown

UNITS = {"step": "seconds", "parameters": "parameters"}


@dataclass(frozen=True, slots=True)
class Gate:
    """The cases of a run as they stand against a baseline; `remarks` say in what else the two differ."""

    baseline: RunFile
    run: RunFile
    cases: tuple[Judged, ...]
    remarks: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no case failed."""
        return not any(case.standing == "FAIL" for case in self.cases)

    def name(self, case: Judged) -> str:
        """The case's name in tables: its model and what tells it from the others of that model."""
        return words.plain(case_name(case.record, (*self.baseline.records, *self.run.records)))


def sheets(gate: Gate) -> list[Sheet]:
    """The limits held against each case, and for each that failed what grew, by category and by module."""
    failed = [case for case in gate.cases if case.standing == "FAIL"]
    answer = (
        f"FAIL, {len(failed)} of {cases_text(len(gate.cases))}" if failed else f"PASS, {cases_text(len(gate.cases))}"
    )
    overview = Sheet(
        title=f"Memory against the baseline: {answer}",
        headings=("case", "limit", *HEADINGS, "verdict"),
        rows=[row for case in gate.cases for row in _rows(gate.name(case), case)],
        labels=2,
        ends=1,
        notes=_notes(gate),
    )
    return [overview, *(sheet for case in failed for sheet in _explanation(gate.name(case), case))]


def render_document(gate: Gate) -> str:
    """The tables as Markdown."""
    return render_markdown(*sheets(gate), command=join_commands((gate.baseline.command, gate.run.command)))


def render_csv(gate: Gate) -> str:
    """One line a limit and case."""
    rows = [
        (gate.name(case), case.standing, case.reason, *line) for case in gate.cases for line in _lines(case) or [()]
    ]
    return csv_text(("case", "standing", "reason", "what", "before", "after", "growth", "limit", "kept"), rows)


def render_json(gate: Gate) -> str:
    """The answer for other programs: what was held against each case, and the whole difference."""
    values = {
        "passed": gate.passed,
        **origins(gate.baseline, gate.run),
        "cases": [_case(gate.name(case), case) for case in gate.cases],
    }
    return json.dumps(values, indent=1) + "\n"


def render_junit(gate: Gate) -> str:
    """JUnit's XML, as CI servers show it: a test a case."""
    counts = {
        "tests": str(len(gate.cases)),
        "failures": str(sum(case.standing == "FAIL" for case in gate.cases)),
        "skipped": str(sum(case.standing in ("new", "skipped") for case in gate.cases)),
    }
    root = ET.Element("testsuites", {"name": "muse-bench", **counts})
    suite = ET.SubElement(root, "testsuite", {"name": "muse-bench check", "errors": "0", **counts})
    for case in gate.cases:
        _test(suite, gate.name(case), case)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def render_benchmark(run: RunFile) -> str:
    """The list that github-action-benchmark's customSmallerIsBetter takes: every figure of every case."""
    rows = [
        {"name": f"{_full_name(record, run.records)}: {what}", "unit": UNITS.get(what, "bytes"), "value": value}
        for record in run.records
        if record.status == "ok"
        for what, field in FIGURES.items()
        if (value := getattr(record, field)) is not None
    ]
    return json.dumps(rows, indent=1) + "\n"


def failure_text(case: Judged) -> str:
    """Why a case fails, in one line."""
    if case.reason:
        return words.plain(case.reason)
    broken = [one for one in case.outcomes if not one.kept]
    return "; ".join(f"{_growth(one.change)}, and the limit is {one.limit.text}" for one in broken)


def cases_text(cases: int) -> str:
    """A number of cases in words."""
    return "1 case" if cases == 1 else f"{cases} cases"


def _growth(found: Change) -> str:
    if found.growth is None:
        missing = "the baseline" if found.before is None else "these records"
        return f"{found.what} is not known in {missing}"
    sizes = f"{value_text(found.what, found.before)} to {value_text(found.what, found.after)}"
    return f"{found.what} grew by {growth_text(found).lstrip('+')}, from {sizes}"


def _rows(name: str, case: Judged) -> list[tuple[str, ...]]:
    if not case.outcomes:
        return [(name, *("-" * (1 + len(HEADINGS))), case.standing)]
    return [(name, str(one.limit), *cells(one.change), "ok" if one.kept else "FAIL") for one in case.outcomes]


def _lines(case: Judged) -> list[tuple[Any, ...]]:
    return [
        (one.limit.what, one.change.before, one.change.after, one.change.growth, one.limit.text, one.kept)
        for one in case.outcomes
    ]


def _explanation(name: str, case: Judged) -> list[Sheet]:
    """The difference of a case that grew; none for one that is missing."""
    if case.pair is None or not case.pair.finished:
        return []
    grown = [one for one in places(case.pair) if one.growth and one.growth > 0]
    return [figures_sheet(name, case.pair), *([places_sheet(name, grown)] if grown else [])]


def _notes(gate: Gate) -> tuple[str, ...]:
    return (
        f"before, the baseline: {origin(gate.baseline)}",
        f"after, these records: {origin(gate.run)}",
        *map(words.plain, gate.remarks),
        *(words.plain(f"{gate.name(case)}: {case.reason}") for case in gate.cases if case.reason),
        *words.failures(gate.run.records),
    )


def _case(name: str, case: Judged) -> dict[str, Any]:
    names = ("what", "before", "after", "growth", "limit", "kept")
    limits = [dict(zip(names, line, strict=True)) for line in _lines(case)]
    difference = {} if case.pair is None else explained(case.pair)
    return {"case": name, "standing": case.standing, "reason": case.reason, "limits": limits, **difference}


def _test(suite: ET.Element, name: str, case: Judged) -> None:
    test = ET.SubElement(suite, "testcase", {"classname": f"muse-bench.{words.plain(case.record.mode)}", "name": name})
    if case.standing == "FAIL":
        failure = ET.SubElement(test, "failure", {"type": "regression", "message": failure_text(case)})
        failure.text = _explanation_text(name, case)
    elif case.standing != "ok":
        ET.SubElement(test, "skipped", {"message": words.plain(f"{case.standing}: {case.reason}")})


def _explanation_text(name: str, case: Judged) -> str:
    lines = [failure_text(case)]
    for sheet in _explanation(name, case):
        lines += ["", sheet.title, *("  ".join(row) for row in (sheet.headings, *sheet.rows))]
    return "\n".join(lines)


def _full_name(record: Record, among: Sequence[Record]) -> str:
    protocol = f"{record.mode}, {record.dtype}, batch {record.batch}, {record.input_text}"
    return words.plain(f"{case_name(record, among)} ({protocol})")
