"""The sweep's command line over invented memory: its values, tables, exponents, outputs and errors."""

import json

import pytest

from muse_bench.analysis.sweep import exponent
from muse_bench.cli.sweep import parse_values
from muse_bench.errors import UsageError


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")


@pytest.mark.parametrize(
    ("text", "values"),
    [("512..4096", [512, 1024, 2048, 4096]), ("3..10", [3, 6]), ("4,1,2", [1, 2, 4]), ("1K..2K", [1000, 2000])],
)
def test_values(text, values):
    assert parse_values(text) == values


@pytest.mark.parametrize("text", ["8..4", "0..4", "1..", "a,b", ""])
def test_what_is_no_value(text):
    with pytest.raises(UsageError):
        parse_values(text)


def test_the_exponent_of_a_power_is_the_power():
    assert exponent({x: 3.0 * x**1.5 for x in (2, 4, 8, 64)}) == pytest.approx(1.5)
    assert exponent({4: 1.0}) is None


def test_a_row_for_each_value_and_the_exponents(call, runner, tmp_path, capsys):
    runner.peaks = {"ultra": lambda case: case.seq, "tuned": lambda case: case.seq**2 // 1000}
    assert call("sweep", "--models", "ultra,tuned", "--values", "1000..8000", "-o", "a.md", "-o", "a.json") == 0
    lines = (tmp_path / "a.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert cells[0] == ["sequence", "ultra", "tuned"]
    assert cells[2:] == [
        ["1,000", "1,000.0", "1,000.0"],
        ["2,000", "2,000.0", "4,000.0"],
        ["4,000", "4,000.0", "16,000.0"],
        ["8,000", "8,000.0", "64,000.0"],
        ["exponent from 1,000", "1.000", "2.000"],
    ]
    capsys.readouterr()
    assert call("sweep", "--from", "a.json", "--fit-from", "4K") == 0
    assert "exponent from 4,000" in capsys.readouterr().out


def test_parts_of_a_sweep_are_shown_as_one_unless_their_gpus_differ(call, runner, tmp_path, capsys):
    runner.peaks = {"ultra": lambda case: case.seq}
    assert call("sweep", "--models", "ultra", "--values", "1000..2000", "-o", "a.json") == 0
    assert call("sweep", "--models", "ultra", "--values", "4000", "-o", "b.json") == 0
    capsys.readouterr()
    assert call("sweep", "--from", "a.json", "--from", "b.json", "--fit-from", "1000", "-o", "c.md") == 0
    assert "| exponent from 1,000 | 1.000 |" in " ".join((tmp_path / "c.md").read_text().split())
    assert "| 4,000 | 4,000.0 |" in " ".join((tmp_path / "c.md").read_text().split())
    other = json.loads((tmp_path / "b.json").read_text())
    other["environment"]["gpu"] = "NVIDIA A100"
    (tmp_path / "b.json").write_text(json.dumps(other))
    assert call("sweep", "--from", "a.json", "--from", "b.json") == 2
    assert "b.json: another GPU" in " ".join(capsys.readouterr().err.split())


def test_a_case_that_ran_out_of_memory_leaves_the_others(call, runner, capsys):
    runner.peaks = {"ultra": lambda case: "oom" if case.batch > 2 else 100 * case.batch}
    assert call("sweep", "--models", "ultra", "--param", "batch", "--values", "1..4") == 4
    shown = " ".join(capsys.readouterr().out.split())
    assert "4 oom" in shown
    assert "exponent from 1 1.000" in shown


def test_the_state_and_the_times_of_decoding(call, runner, tmp_path):
    def measured(case):
        return {
            "state_per_sequence_bytes": case.seq << 10,
            "prefill_seconds": case.seq**2 * 1e-6,
            "new_token_seconds": 0.5,
        }

    runner.fields = measured
    values = ("--values", "1000..4000", "-o", "a.md")
    assert call("sweep", "--mode", "decode", "--models", "baseline", *values) == 0
    text = (tmp_path / "a.md").read_text()
    tables = {part.partition("\n")[0]: " ".join(part.split()) for part in text.split("## ")[1:]}
    assert "| 4,000 | 3.906 |" in tables["State per sequence, MiB, by sequence"]
    assert "| exponent from 1,000 | 1.000 |" in tables["State per sequence, MiB, by sequence"]
    assert "| exponent from 1,000 | 2.000 |" in tables["Time to read the prompt, by sequence"]
    assert "| exponent from 1,000 | 0.000 |" in tables["Time per new token after the first, by sequence"]


def test_sizes_that_the_config_holds(call, runner, capsys):
    runner.peaks = {"ultra": lambda case: case.config.n_layers * 10}
    assert call("sweep", "--models", "ultra", "--param", "layers", "--values", "2..8") == 0
    assert "8 80.0" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--param", "depth"], "--param 'depth'"), (["--models", "mine.py:build", "--param", "layers"], "--param layers")],
)
def test_what_cannot_be_swept(call, capsys, arguments, said):
    assert call("sweep", *arguments) == 2
    assert said in capsys.readouterr().err
