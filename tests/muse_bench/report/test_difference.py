"""The tables of the difference and of the gate, at the widths that people have, and the files for other programs."""

import csv
import dataclasses
import io
import json
from xml.etree import ElementTree

import pytest

from muse_bench.analysis.difference import Change, match, match_altered
from muse_bench.analysis.limits import judge_cases, parse_limit
from muse_bench.ledger import Ledger, ModuleRow
from muse_bench.report import gate as gates
from muse_bench.report.difference import Difference, cells, render_csv, render_document, render_json, sheets
from muse_bench.report.sheet import render_terminal

MIB = 1 << 20


@pytest.fixture
def runs(run):
    """A run and what became of it: baseline holds more for backward, ultra has another optimizer, streamed fits."""
    baseline, ultra, streamed, mine = run.records
    ledger = dataclasses.replace(baseline.ledger, activations_saved=324 * MIB, gradients=98 * MIB)
    modules = [
        dataclasses.replace(row, ledger=dataclasses.replace(row.ledger, activations_saved=5 * MIB))
        if row.module.startswith("blocks")
        else dataclasses.replace(row, ledger=dataclasses.replace(row.ledger, parameters=6 * MIB))
        for row in baseline.modules
    ]
    extra = ModuleRow(module="adapters", ledger=Ledger(gradients=512))
    grown = dataclasses.replace(
        baseline,
        ledger=ledger,
        modules=(*modules, extra),
        peak_allocated_bytes=ledger.total,
        parameters=baseline.parameters + 5,
        step_time_seconds=0.15,
    )
    other = dataclasses.replace(ultra, optimizer="sgd")
    fits = dataclasses.replace(streamed, status="ok", reason=None, peak_allocated_bytes=9 * MIB)
    new = dataclasses.replace(ultra, model="muse")
    return run, dataclasses.replace(run, records=(grown, other, fits, mine, new), command="muse-bench compare")


@pytest.fixture
def difference(runs):
    before, after = runs
    matched = match_altered(match(before.records, after.records))
    return Difference(before, after, matched, ("torch differs: 2.11 before, 2.13 after",))


@pytest.fixture
def gate(runs):
    before, after = runs
    limits = [parse_limit(text) for text in ("peak:2%", "parameters:0", "gradients:1MiB")]
    return gates.Gate(before, after, judge_cases(match(before.records, after.records), limits))


@pytest.mark.parametrize("width", [80, 120])
def test_the_difference_in_a_terminal(difference, draw, snapshot, width):
    snapshot(f"difference-{width}.txt", draw(render_terminal(*sheets(difference)), width))


@pytest.mark.parametrize("width", [80, 120])
def test_the_gate_in_a_terminal(gate, draw, snapshot, width):
    snapshot(f"gate-{width}.txt", draw(render_terminal(*gates.sheets(gate)), width))


def test_as_markdown(difference, gate, snapshot):
    snapshot("difference.md", render_document(difference))
    snapshot("gate.md", gates.render_document(gate))


def test_a_growth_that_mib_would_not_show_is_in_bytes():
    """A failure of 'gradients:0' by '+0.0 MiB' explains nothing."""
    assert cells(Change("gradients", MIB, MIB + 512)) == ("1.0 MiB", "1.0 MiB", "+512 B", "+0.0 %")
    assert cells(Change("gradients", MIB + 512, MIB))[2] == "-512 B"


def test_the_csv_holds_what_the_tables_leave_out(difference):
    rows = list(csv.DictReader(io.StringIO(render_csv(difference))))
    figures = {(row["case"], row["what"], row["module"]): row["growth"] for row in rows}
    assert figures["baseline", "peak", ""] == str(22 * MIB)
    assert figures["baseline", "workspace", ""] == "0"
    assert figures["baseline", "activations_saved", "blocks.0-11"] == str(24 * MIB)
    assert figures["streamed", "peak", ""] == ""  # it did not finish before: no growth, and not 0


def test_the_json_holds_both_sides(difference):
    values = json.loads(render_json(difference))
    baseline = values["cases"][0]
    assert baseline["figures"]["peak"]["growth"] == 22 * MIB
    place = {"module": "adapters", "category": "gradients", "before": 0, "after": 512, "growth": 512}
    assert place in baseline["places"]
    assert values["cases"][-1]["altered"] == ["optimizer: adamw -> sgd"]
    assert (values["only_before"], values["only_after"]) == ([], ["muse"])


def test_junit_has_a_test_for_each_case_and_explains_its_failure(gate):
    root = ElementTree.fromstring(gates.render_junit(gate))
    found = {case.get("name"): [child.tag for child in case] for case in root.iter("testcase")}
    assert found == {
        "baseline": ["failure"],
        "streamed": ["skipped"],
        "mine.py:build": ["failure"],
        "ultra, optimizer adamw": ["failure"],
        "ultra, optimizer sgd": ["skipped"],
        "muse": ["skipped"],
    }
    failure = root.find(".//failure")
    assert "peak grew by 22.0 MiB" in failure.get("message")
    assert "blocks.0-11  saved activations  36.0 MiB  60.0 MiB  +24.0 MiB" in failure.text
    (suite,) = root
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("6", "3", "3")


def test_names_that_would_end_the_xml_or_the_table_do_not(gate, runs):
    """A model is named by whoever wrote the file."""
    before, after = runs
    evil = 'a]]>"</testcase>\x00\x1b[31m\ud800\uffff&|'
    old, new = (dataclasses.replace(one.records[0], model=evil) for one in runs)
    before, after = (dataclasses.replace(run, records=(one,)) for run, one in ((before, old), (after, new)))
    gate = gates.Gate(before, after, judge_cases(match([old], [new]), [parse_limit("peak:0")]))
    (case,) = ElementTree.fromstring(gates.render_junit(gate)).iter("testcase")
    assert case.get("name") == 'a]]>"</testcase>??[31m??&|'
    assert "\\|" in gates.render_document(gate)
    assert "\x1b" not in gates.render_document(gate)


def test_benchmarks_have_a_name_a_unit_and_a_number(runs):
    rows = json.loads(gates.render_benchmark(runs[0]))
    name = "baseline (train, fp32, batch 1, seq 2048): parameters"
    assert {"name": name, "unit": "parameters", "value": 26_214_400} in rows
    assert all(set(row) == {"name", "unit", "value"} and isinstance(row["value"], int | float) for row in rows)
    assert not any(row["name"].startswith("streamed") for row in rows)  # which ran out of memory, and has no figures
    assert len({row["name"] for row in rows}) == len(rows)
