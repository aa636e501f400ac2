"""The command line of floors over invented memory and counts: tables, formulas, files, and saved records."""

import csv
import importlib
import json

import pytest

from muse_bench.footprint import Footprint

MIB = 1 << 20
COUNTED = Footprint(
    parameters=100,
    weights_bytes=10 * MIB,
    gradients_bytes=10 * MIB,
    largest_gradient_bytes=2 * MIB,
    largest_operand_bytes=3 * MIB,
    optimizer_bytes=20 * MIB,
    inputs_bytes=MIB,
    token_vector_bytes=1 << 10,
    token_logits_bytes=2 << 10,
    state_per_sequence_bytes=MIB,
)


@pytest.fixture(autouse=True)
def counted(monkeypatch):
    """Every case weighs the same; what is asked for is kept."""
    asked = []

    def weigh(cases):
        asked.extend(cases)
        return [COUNTED for _ in cases]

    monkeypatch.setattr(importlib.import_module("muse_bench.cli.floor"), "weigh_cases", weigh)
    monkeypatch.setenv("COLUMNS", "120")
    return asked


def cells(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_floor_stands_beside_its_peak(call, tmp_path):
    """82 MiB of peak over a floor of 41: the ratio is of the peak to the floor, and of this model's own."""
    assert call("floor", "--models", "baseline,ultra", "--modes", "train", "--seq", "1024", "-o", "a.md") == 0
    rows = cells((tmp_path / "a.md").read_text())
    assert rows[2] == ["baseline", "floor", "10.0", "10.0", "20.0", "0.0", "1.0", "", "41.0", "", ""]
    assert rows[3] == ["", "streamed", "", "", "", "", "", "", "6.0", "", ""]
    assert rows[4] == ["", "peak", "100.0", "0.0", "0.0", "0.0", "0.0", "0.0", "100.0", "2.44", "2.44"]
    assert rows[5][0] == "ultra"


def test_every_mode_unless_told_and_the_floor_of_the_reports(call, counted, capsys):
    assert call("floor", "--models", "muse", "--seq", "512") == 0
    *asked, every, last = [(case.mode, case.logits) for case in counted]
    modes = [("train", "all"), ("forward-backward", "all"), ("inference", "all"), ("inference", "last")]
    assert asked == [*modes, ("decode", "all")]
    assert (every, last) == (("inference", "all"), ("inference", "last"))
    shown = " ".join(capsys.readouterr().out.split())
    assert "parameters: none: weights, gradients and state in host memory, read a tile at a time" in shown
    assert "total 28.0 12.0" in shown


def test_each_part_is_a_line_of_the_csv_and_the_records_read_back(call, tmp_path, capsys):
    outputs = ("-o", "a.csv", "-o", "a.json")
    assert call("floor", "--models", "ultra", "--modes", "decode,train", *outputs) == 0
    with open(tmp_path / "a.csv") as stream:
        rows = list(csv.DictReader(stream))
    state = next(row for row in rows if (row["mode"], row["part"]) == ("decode", "activations"))
    assert int(state["floor_bytes"]) == MIB + (2 << 10)
    assert "state of a sequence" in state["formula"]
    total = next(row for row in rows if (row["mode"], row["part"]) == ("train", "total"))
    assert (int(total["floor_bytes"]), int(total["peak_bytes"])) == (41 * MIB, 100 * MIB)
    assert len(json.loads((tmp_path / "a.json").read_text())["floors"]) == len(rows)
    capsys.readouterr()
    assert call("floor", "--from", "a.json", "-o", "b.csv") == 0
    assert (tmp_path / "b.csv").read_text() == (tmp_path / "a.csv").read_text()


def test_a_case_that_ran_out_of_memory_has_a_floor_and_no_ratio(call, runner, capsys):
    runner.peaks = {"ultra": "oom"}
    assert call("floor", "--models", "ultra", "--modes", "train") == 4
    assert "oom" in capsys.readouterr().out


def test_a_model_that_has_changed_since_is_left_out(call, tmp_path, monkeypatch, capsys):
    """Its peak is that of another model than the one whose parts were counted."""
    assert call("compare", "--models", "ultra,tuned", "-o", "a.json") == 0
    values = json.loads((tmp_path / "a.json").read_text())
    values["records"][0]["parameters"] = 7
    (tmp_path / "a.json").write_text(json.dumps(values))
    capsys.readouterr()
    assert call("floor", "--from", "a.json") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "left out, since this version builds another model than was recorded: ultra." in shown
    assert "tuned floor" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--modes", "train,sleep"], "--modes 'sleep'"),
        (["--models", "encoder"], "'encoder' cannot decode"),
        (["--models", "mine.py:build"], "'mine.py:build'"),
        (["--models", "mine.py:build", "--modes", "train"], "'mine.py:build' has no floor"),
        (["--output", "a.txt"], "a.txt"),
        (["--from", "none.json"], "none.json"),
    ],
)
def test_what_has_no_floor(call, capsys, arguments, said):
    assert call("floor", *arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("config", [{}, {"d_model": "wide"}, {"dropout": "none"}])
def test_a_record_whose_config_is_none(call, tmp_path, capsys, config):
    assert call("compare", "--models", "ultra", "-o", "a.json") == 0
    values = json.loads((tmp_path / "a.json").read_text())
    values["records"][0]["config"] = {**values["records"][0]["config"], **config} if config else {}
    (tmp_path / "a.json").write_text(json.dumps(values))
    capsys.readouterr()
    assert call("floor", "--from", "a.json") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_records_of_other_models_have_no_floor(call, tmp_path, capsys):
    assert call("compare", "--models", "mine.py:build", "-o", "a.json") == 0
    assert call("floor", "--from", "a.json") == 2
    assert "no record of a preset" in capsys.readouterr().err
