"""Saved records, rendered again."""

import json

import pytest

from muse_bench.record import read_run_file


@pytest.fixture
def saved(call, runner, capsys):
    """Two record files of one environment."""
    runner.peaks = {"ultra": 25, "tuned": 50}
    assert call("compare", "--models", "baseline,ultra", "-o", "first.json") == 0
    assert call("compare", "--models", "baseline,tuned", "-o", "second.json") == 0
    capsys.readouterr()


def _move_to_another_machine(path):
    values = json.loads(path.read_text())
    values["environment"]["torch"] = "2.11.0"
    path.write_text(json.dumps(values))


def test_a_file_is_shown_as_the_table_it_was(saved, call, capsys):
    assert call("report", "first.json") == 0
    shown = capsys.readouterr().out
    assert "75.0 %" in shown
    assert "reduction against baseline" in shown


def test_files_of_one_environment_become_one_report(saved, call, capsys):
    assert call("report", "first.json", "second.json") == 0
    shown = capsys.readouterr().out
    assert shown.count("Peak GPU memory") == 1
    assert "ultra" in shown
    assert "tuned" in shown


def test_files_of_several_environments_keep_their_titles(saved, call, capsys, tmp_path):
    _move_to_another_machine(tmp_path / "second.json")
    assert call("report", "first.json", "second.json") == 0
    shown = capsys.readouterr().out
    assert shown.count("Peak GPU memory") == 2
    assert "torch 2.11.0" in shown
    assert call("report", "first.json", "second.json", "--format", "markdown") == 0
    assert capsys.readouterr().out.count("## Peak GPU memory") == 2


def test_json_does_not_mix_environments(saved, call, capsys, tmp_path):
    _move_to_another_machine(tmp_path / "second.json")
    before = sorted(tmp_path.iterdir())
    assert call("report", "first.json", "second.json", "-o", "both.md", "-o", "both.json") == 2
    assert "render them one by one" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["csv", "json", "markdown"])
def test_every_format_goes_to_stdout_and_to_files_alike(saved, call, capsys, tmp_path, name):
    output = {"csv": "a.csv", "json": "a.json", "markdown": "a.md"}[name]
    assert call("report", "first.json", "--format", name, "-o", output) == 0
    assert capsys.readouterr().out == (tmp_path / output).read_text()


def test_json_rendered_again_is_the_same_file(saved, call, capsys, tmp_path):
    assert call("report", "first.json", "--format", "json") == 0
    assert capsys.readouterr().out == (tmp_path / "first.json").read_text()


def test_another_baseline_is_computed_anew(saved, call, tmp_path):
    assert call("report", "first.json", "--baseline", "ultra", "-o", "again.json") == 0
    again = read_run_file(tmp_path / "again.json")
    assert [record.reduction for record in again.records] == [-3.0, 0.0]


def test_a_single_record_is_shown_in_full(call, capsys):
    assert call("measure", "ultra", "-o", "one.json") == 0
    capsys.readouterr()
    assert call("report", "one.json") == 0
    assert "peak allocated" in capsys.readouterr().out
