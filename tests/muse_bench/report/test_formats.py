"""The formats: found by file, chosen by suffix, and each as its snapshot says."""

import csv
import dataclasses
import io
from pathlib import Path

import pytest

from muse_bench.errors import UsageError
from muse_bench.record import read_run_file
from muse_bench.report import document, format_of, formats


def test_every_format_is_found_by_its_file():
    found = {name: known.suffix for name, known in formats().items()}
    assert found.items() >= {"csv": ".csv", "json": ".json", "markdown": ".md"}.items()


def test_the_suffix_picks_the_format_whatever_its_case():
    assert format_of(Path("a/b.CSV"), formats().values()).name == "csv"


@pytest.mark.parametrize("name", ["peaks.txt", "peaks", "peaks.json.gz"])
def test_an_unknown_suffix_names_the_known_ones(name):
    with pytest.raises(UsageError, match=r"unknown suffix.*\.csv, .*\.json, \.md"):
        format_of(Path(name), formats().values())


def test_markdown(run, snapshot):
    snapshot("run.md", formats()["markdown"].render(run))


def test_csv(run, snapshot):
    snapshot("run.csv", formats()["csv"].render(run))


def test_csv_leaves_missing_values_empty_and_whole_numbers_whole(run):
    rows = list(csv.DictReader(io.StringIO(formats()["csv"].render(run))))
    assert rows[0]["peak_allocated_bytes"] == str(run.records[0].peak_allocated_bytes)
    assert rows[2]["peak_allocated_bytes"] == ""
    assert rows[0]["config_mixer_rank"] == ""


def test_json_reads_back_as_the_same_run(run, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(formats()["json"].render(run))
    assert read_run_file(path) == run


def test_markdown_shows_a_hostile_name_as_it_is(run):
    record = dataclasses.replace(run.records[0], model="a|b<img>\x1b[31m\n# title")
    text = formats()["markdown"].render(dataclasses.replace(run, records=(record,)))
    assert "a\\|b\\<img\\>?\\[31m # title" in text
    assert "\n# title" not in text


def test_markdown_says_what_sets_a_model_apart(run):
    record = dataclasses.replace(run.records[1], update="in-backward", host_bytes={"checkpoints": 96 << 20})
    text = formats()["markdown"].render(dataclasses.replace(run, records=(run.records[0], record)))
    heading, _, *rows = ([cell.strip() for cell in line.split("|")] for line in text.splitlines() if line[:1] == "|")
    assert [row[heading.index("host")] for row in rows] == ["-", "96.0"]
    assert "\n- ultra: update in backward, checkpoints in host memory\n" in text


def test_runs_of_several_environments_need_a_format_with_sections(run):
    assert document(formats()["markdown"], [run, run]).count("## Peak GPU memory") == 2
    with pytest.raises(UsageError, match="come from 2"):
        document(formats()["csv"], [run, run])
