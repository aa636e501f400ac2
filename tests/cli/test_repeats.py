"""`--repeat` through the command line: how often a case runs, and what its one record and the report say."""

import json
import os
import sys

import pytest

from muse_bench.record import read_run_file

SMALL = ["--vocab", "61", "--d-model", "32", "--layers", "2", "--heads", "4", "--seq", "16"]
MIB = 1 << 20


def test_each_case_runs_so_often_and_has_one_record(call, runner, tmp_path):
    assert call("compare", "--models", "baseline,ultra", "--repeat", "3", "-o", "a.json") == 0
    cases = runner.made[0].cases
    assert [(case.model, case.repeat) for case in cases] == [
        (model, index) for model in ("baseline", "ultra") for index in range(3)
    ]
    records = read_run_file(tmp_path / "a.json").records
    assert [(record.model, len(record.repeats)) for record in records] == [("baseline", 3), ("ultra", 3)]
    assert [record.reduction_against for record in records] == 2 * ["baseline"]


@pytest.mark.parametrize("command", ["measure", "predict"])
def test_what_varies_is_shown_and_the_verdict_is_of_the_largest(call, runner, capsys, tmp_path, command):
    runner.peaks["ultra"] = lambda case: 100 + case.repeat
    assert call(command, "ultra", "--repeat", "2", "-o", "a.json") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "2 runs: " in shown
    assert "peak 100.0 MiB to 101.0 MiB, 1,048,576 bytes apart" in shown
    (record,) = read_run_file(tmp_path / "a.json").records
    assert (record.peak_allocated_bytes, record.verdict) == (101 * MIB, "PASS")


def test_a_run_that_fails_fails_the_case(call, runner):
    runner.peaks["ultra"] = lambda case: "oom" if case.repeat == 1 else 100
    assert call("measure", "ultra", "--repeat", "3") == 4


def test_an_interrupted_case_keeps_the_runs_it_had(call, runner, tmp_path):
    runner.peaks["ultra"] = lambda case: KeyboardInterrupt() if case.repeat == 2 else 100
    assert call("measure", "ultra", "--repeat", "5", "-o", "a.json") == 130
    assert len(read_run_file(tmp_path / "a.json").records[0].repeats) == 2


def test_once_is_as_without(call, runner, tmp_path, capsys):
    assert call("measure", "ultra", "--repeat", "1", "-o", "a.json") == 0
    assert "runs:" not in capsys.readouterr().out
    assert "repeats" not in json.loads((tmp_path / "a.json").read_text())["records"][0]


@pytest.mark.parametrize("repeat", ["0", "-1"])
def test_less_than_once_is_refused(call, runner, capsys, repeat):
    assert call("measure", "ultra", "--repeat", repeat) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--repeat {repeat}" in line
    assert not runner.made


FACTORY = """
import os
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        with open("pids", "a") as file:
            file.write(f"{os.getpid()}\\n")
        self.table = nn.Embedding(61, 8)

    def forward(self, ids):
        return self.table(ids) @ self.table.weight.t()
"""


def test_repeated_predictions_have_processes_of_their_own(muse_bench, tmp_path):
    """One process would answer from what it remembers."""
    (tmp_path / "model.py").write_text(FACTORY)
    process = muse_bench("predict", "model.py:Model", "--vocab", "61", "--seq", "16", "--repeat", "3", "-o", "a.json")
    assert (process.returncode, process.stderr) == (0, "")
    assert len(set((tmp_path / "pids").read_text().split())) == 3
    assert "every line of the ledger the same to the byte" in " ".join(process.stdout.split())


def test_predictions_do_not_depend_on_the_order_of_sets(muse_bench, tmp_path):
    """Five processes that hash differently give the same bytes, every module and moment included."""
    texts = set()
    for seed in range(5):
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": str(seed)}
        command = ["compare", "--backend", "predict", "--models", "baseline,ultra,muse", *SMALL, "-o", "a.json"]
        process = muse_bench(*command, env=environment)
        assert (process.returncode, process.stderr) == (0, "")
        values = json.loads((tmp_path / "a.json").read_text())
        for record in values["records"]:
            del record["duration_seconds"]
        texts.add(json.dumps(values))
    assert len(texts) == 1
