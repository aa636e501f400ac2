"""`--fsdp`, `--tensor-parallel` and `--replicas` through the command line."""

import csv
import dataclasses

import pytest

from muse_bench.ledger import Ledger, RankRow
from muse_bench.record import read_run_file

SMALL = ["--vocab", "97", "--d-model", "32", "--layers", "2", "--heads", "4", "--seq", "16"]
MIB = 1 << 20


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Not under a torchrun that runs these tests."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def refused(capsys):
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("command", ["measure", "predict"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["baseline", "--ranks", "4"], "--ranks 4 shares nothing out: add --fsdp"),
        (["baseline", "--fsdp", "--replicas"], "choose one of --fsdp, --replicas"),
        (["baseline", "--fsdp", "--ranks", "1"], "--ranks 1 is one GPU"),
        (["baseline", "--fsdp", "--ranks", "0"], "--ranks 0 is one GPU"),
        (["baseline", "--fsdp", "--ranks", "100000"], "give 2 to 1,024"),
        (["muse", "--fsdp"], "'muse' has weights in host memory or an update in backward"),
        (["streamed", "--replicas"], "'streamed' has weights in host memory"),
        (["baseline", "--mode", "decode", "--fsdp"], "mode 'decode' is for one GPU"),
        (["baseline", "--mode", "forward-backward", "--fsdp"], "mode 'forward-backward' is for one GPU"),
        (["--setup", "train.py:set_up", "--fsdp"], "shards its model itself"),
        (["tuned", "--tensor-parallel"], "a fused loss reads the whole head"),
    ],
)
def test_what_cannot_be_shared_out_is_refused_in_one_line(call, runner, capsys, command, arguments, said):
    """Before anything runs."""
    assert call(command, *arguments) == 2
    assert said in refused(capsys)
    assert not runner.made


def test_a_case_is_followed_by_the_same_on_one_gpu(call, runner):
    assert call("measure", "baseline", "--tensor-parallel") == 0
    sharded, one = runner.made[0].cases
    assert (sharded.sharding, sharded.ranks) == ("tensor", 2)
    assert dataclasses.replace(sharded, sharding=None, ranks=1) == one
    assert one.execution == "eager"


def ranks_of(case):
    row = RankRow(
        rank=0,
        peak_allocated_bytes=60 * MIB,
        cold_peak_allocated_bytes=60 * MIB,
        peak_reserved_bytes=60 * MIB,
        ledger=Ledger(parameters=60 * MIB),
    )
    return {} if case.sharding is None else {"sharding": case.sharding, "ranks": case.ranks, "of_ranks": (row,)}


def test_a_model_that_needs_several_gpus_is_no_failure(call, runner, capsys, tmp_path, monkeypatch):
    """It is what sharding is for: the reason is told in place of a reduction. A sharded case that fails is one."""
    monkeypatch.setattr(runner, "fields", ranks_of)
    runner.peaks["baseline"] = lambda case: "oom" if case.sharding is None else 60
    assert call("measure", "baseline", "--fsdp", "-o", "a.json") == 0
    assert "no reduction: on one GPU the same ended with oom" in " ".join(capsys.readouterr().out.split())
    sharded, one = read_run_file(tmp_path / "a.json").records
    assert (sharded.reduction, one.status) == (None, "oom")
    runner.peaks["baseline"] = lambda case: "oom"
    assert call("measure", "baseline", "--fsdp") == 4


def test_under_torchrun_the_first_process_does_it_all(call, runner, capsys, tmp_path, monkeypatch):
    """Eight would write one file eight times, and start 64 processes."""
    for name, value in {"RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    assert call("measure", "baseline", "--fsdp", "-o", "a.json") == 0
    assert capsys.readouterr() == ("", "")
    assert not runner.made
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("RANK", "0")
    assert call("measure", "baseline", "--fsdp") == 0
    assert runner.made[0].cases[0].ranks == 8


def test_torchrun_on_several_machines_is_refused(call, runner, capsys, monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    assert call("measure", "baseline", "--fsdp") == 2
    assert "torchrun runs 16 processes, 8 of them here" in refused(capsys)
    assert not runner.made


def test_a_prediction_shows_ranks_and_what_sharding_takes_off(muse_bench, tmp_path):
    """By the real process; an 80-column terminal, and every format."""
    outputs = [word for suffix in ("json", "csv", "md") for word in ("-o", f"a.{suffix}")]
    found = muse_bench("predict", "baseline", *SMALL, "--fsdp", "--ranks", "4", "--gpu", "h200", *outputs)
    assert found.returncode == 0, found.stderr
    sharded, one = read_run_file(tmp_path / "a.json").records
    assert [row.rank for row in sharded.of_ranks] == [0, 3]
    assert sharded.reduction == pytest.approx(1 - sharded.peak_allocated_bytes / one.peak_allocated_bytes)
    assert (sharded.reduction_against, sharded.device_peak_bytes) == ("one GPU", None)
    for text in (found.stdout, (tmp_path / "a.md").read_text()):
        assert "imbalance: the largest peak is" in text
        assert f"{sharded.reduction * 100:.1f} % less than the same on one GPU" in text
    assert "communication" in found.stdout
    assert "NCCL takes memory of its own" in found.stdout
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert [(row["sharding"], row["ranks"]) for row in rows] == [("fsdp", "4"), ("", "")]
    assert int(rows[0]["ledger_communication"]) == sharded.ledger.communication > 0


def test_a_model_without_a_plan_is_refused(muse_bench, tmp_path):
    (tmp_path / "model.py").write_text("from torch import nn\ndef build():\n    return nn.Embedding(97, 97)\n")
    found = muse_bench("predict", "model.py:build", "--vocab", "97", "--tensor-parallel", "-o", "a.json")
    assert found.returncode == 2
    assert "offers no plan for tensor parallelism: choose --fsdp" in found.stderr
    assert not (tmp_path / "a.json").exists()
