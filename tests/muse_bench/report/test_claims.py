"""The tables of the claims, at the widths that people have, and their rows as CSV and JSON."""

import csv
import dataclasses
import io
import json

import pytest

from muse_bench.analysis.claims.claim import Claim
from muse_bench.analysis.claims.figures import Found
from muse_bench.analysis.claims.rule import VERDICTS, Answer
from muse_bench.record import read_run_file
from muse_bench.report.claims import headline, render_csv, render_json, sheets
from muse_bench.report.sheet import render_markdown, render_terminal

STEP = "logits.sum().backward(), no optimizer, the first step of a process; workspaces count"
SMALL = "vocab=10000 d_model=512 layers=6 seq=512 batch=2 dtype=fp32"
PREDICTED, MEASURED = "predicted, NVIDIA GeForce RTX 3080", "measured, NVIDIA H200"


def answered(name, verdict, claimed, unit, reason, theirs=None, sound=None, ours=None, **changes):
    words = {"model": "encoder", "metric": "peak", "config": SMALL, "mode": "forward-backward", "note": "", **changes}
    protocol = words.pop("protocol", STEP)
    return Answer(
        claim=Claim(
            id=name, report="final-report" if name[0] == "F" else "evaluation", claimed=claimed, unit=unit, **words
        ),
        protocol=protocol,
        theirs=theirs,
        sound=sound,
        ours=ours,
        verdict=verdict,
        reason=reason,
    )


@pytest.fixture
def answers():
    """One of each verdict: sizes, shares, times and words, of two reports and three places."""
    return [
        answered(
            "F19",
            "reproduced with a caveat",
            "456.3",
            "MiB",
            "A fresh process takes 456.3 MiB, workspaces included; baseline, causal, workspaces apart, 658.8 MiB.",
            Found(456.26220703125, PREDICTED),
            Found(658.7744140625, MEASURED),
        ),
        answered(
            "F23", "not reproduced", "264.0", "MiB", "It takes 3,237.0 MiB.", Found(3237.04, PREDICTED), note="fp16"
        ),
        answered(
            "F09",
            "not measurable here",
            "1.2-1.5",
            "x",
            "No saved times on a GPU: name records with --records, or run this on one.",
            ours=Found(0.41, MEASURED),
            metric="inference slowdown",
            mode="inference",
            protocol="time of one forward pass against the FP32 encoder",
        ),
        answered(
            "F68",
            "exceeded",
            "no",
            "yes/no",
            "muse trains in 97.3 % less and ends with a lower loss.",
            None,
            Found(97.3, MEASURED),
            Found("yes", MEASURED),
            model="any\x1b[31m",
            metric="95 % or more is possible",
            config="",
            mode="train",
            protocol="called physically impossible",
        ),
        answered(
            "E03",
            "reproduced",
            "99.55",
            "%",
            "Counting gives 99.55 %.",
            Found(99.55326496806414, "counted"),
            metric="parameter compression",
            config="vocab=50257 d_model=1024 rank=16",
            mode="",
            protocol="counted",
        ),
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal(answers, run, draw, snapshot, width):
    """A column that wraps into nothing, a control character let through, a reason or a note lost."""
    text = draw(render_terminal(*sheets(answers, run, wide=False)), width)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    snapshot(f"claims_{width}.txt", text)


def test_markdown(answers, run, snapshot):
    """A reason inside the figure's cell in place of a column of its own."""
    snapshot("claims.md", render_markdown(*sheets(answers, run, wide=True), command=run.command))


def test_the_headline_sums_up_all_and_shows_those_that_are_named(answers, run, snapshot):
    """A summary of the few that are shown, or a table for each place, where a page shows one."""
    summary, table = headline(answers, ["F19", "F09", "E03"], run)
    assert summary.title == "5 claims of two reports, settled"
    assert [row[0] for row in table.rows] == ["F19", "F09", "E03"]
    snapshot("claims_headline.md", render_markdown(table))


def test_the_summary_counts_each_verdict_that_there_is(answers, run):
    """A verdict counted twice, or shown though no claim has it."""
    summary = sheets([*answers, answers[0]], run, wide=False)[0]
    assert [(verdict, count) for verdict, _, count in summary.rows] == [
        (verdict, "2" if verdict == "reproduced with a caveat" else "1") for verdict in VERDICTS
    ]
    alone = sheets(answers[:1], run, wide=False)[0]
    assert [row[0] for row in alone.rows] == ["reproduced with a caveat"]
    assert (alone.title, summary.title[:9]) == ("1 claim of two reports, settled", "6 claims ")


def test_a_table_for_each_place_names_the_claims_of_each_protocol(answers, run):
    """A protocol said of a claim that was run under another one."""
    tables = sheets(answers, run, wide=True)[1:]
    assert [table.title for table in tables] == [
        f"Final report: {SMALL}",
        "Final report: no sizes",
        "Evaluation: vocab=50257 d_model=1024 rank=16",
    ]
    assert tables[0].notes == (
        f"F19, F23: forward-backward: {STEP}",
        "F09: inference: time of one forward pass against the FP32 encoder",
    )
    assert tables[1].notes == ("train: called physically impossible",)


def test_csv_has_a_line_a_claim_and_leaves_missing_values_empty(answers):
    """A missing value written as 0 or None, or a value rounded to what a table shows."""
    text = render_csv(answers)
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [line["id"] for line in lines] == ["F19", "F23", "F09", "F68", "E03"]
    assert (lines[0]["theirs"], lines[0]["theirs_origin"]) == ("456.26220703125", PREDICTED)
    assert (lines[0]["ours"], lines[0]["ours_origin"], lines[2]["theirs"]) == ("", "", "")
    assert (lines[3]["ours"], lines[3]["verdict"], lines[2]["claimed"]) == ("yes", "exceeded", "1.2-1.5")
    assert "None" not in text


@pytest.mark.parametrize("empty", [False, True])
def test_json_holds_the_claims_and_is_still_a_file_of_records(answers, run, tmp_path, empty):
    """A file that `--from` cannot read, such as that of a run without a case; a missing value written as a number."""
    run = dataclasses.replace(run, records=()) if empty else run
    (tmp_path / "a.json").write_text(render_json(answers, run), encoding="utf-8")
    assert read_run_file(tmp_path / "a.json") == run
    claims = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["claims"]
    assert [one["verdict"] for one in claims] == [one.verdict for one in answers]
    assert (claims[0]["theirs"], claims[0]["ours"], claims[3]["ours"]) == (456.26220703125, None, "yes")
