"""Runs that broke off and go on: what is kept, what runs again, and what is refused, over invented records."""

import dataclasses
import importlib
import json
import threading
from pathlib import Path

import pytest

from muse_bench.errors import UsageError
from muse_bench.measure.nvml import DeviceName
from muse_bench.record import Environment

RUN = ("compare", "--models", "baseline,tuned,ultra", "--backend", "predict", "-o", "a.json")


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")


def _models(runner):
    return [case.model for case in runner.made[-1].cases]


def _broken_off(call, runner):
    runner.peaks = {"baseline": 400, "tuned": 200, "ultra": KeyboardInterrupt()}
    assert call(*RUN) == 130
    runner.peaks = {"baseline": 1, "tuned": 2, "ultra": 50}  # a case that ran again would show it


def test_the_outputs_are_those_of_a_run_that_went_through(call, runner, tmp_path, capsys):
    runner.peaks = {"baseline": 400, "tuned": 200, "ultra": 50}
    assert call(*RUN, "-o", "a.md") == 0
    whole = [capsys.readouterr().out, *(Path(name).read_bytes() for name in ("a.json", "a.md"))]
    assert not Path("a.jsonl").exists()
    runner.peaks = {"baseline": 400, "tuned": 200, "ultra": KeyboardInterrupt()}
    assert call(*RUN, "-o", "a.md") == 130
    assert len(Path("a.jsonl").read_text().splitlines()) == 3
    assert "2 of 3 cases finished; go on with: muse-bench compare " in capsys.readouterr().err
    runner.peaks = {"ultra": 50}
    assert call(*RUN, "-o", "a.md", "--resume") == 0
    assert _models(runner) == ["ultra"]
    assert [capsys.readouterr().out, *(Path(name).read_bytes() for name in ("a.json", "a.md"))] == whole
    assert not Path("a.jsonl").exists()


def test_the_journal_says_which_run_it_is(call, runner):
    _broken_off(call, runner)
    head, *lines = map(json.loads, Path("a.jsonl").read_text().splitlines())
    assert head["schema_version"] == 1
    assert head["command"].startswith("muse-bench compare")
    assert head["environment"]["gpu"] == "NVIDIA GeForce RTX 4060"
    assert [line["model"] for line in lines] == ["baseline", "tuned"]


@pytest.mark.parametrize("cut", [1, 40])
def test_a_line_that_was_cut_off_runs_again(call, runner, cut):
    _broken_off(call, runner)
    journal = Path("a.jsonl")
    journal.write_bytes(journal.read_bytes()[:-cut])
    assert call(*RUN, "--resume") == 0
    assert _models(runner) == ["tuned", "ultra"]
    records = json.loads(Path("a.json").read_text())["records"]
    assert [record["parameters"] for record in records] == [400, 2, 50]


def test_a_crashed_case_runs_again_and_one_out_of_memory_is_a_result(call, runner, capsys):
    runner.peaks = {"baseline": "crashed", "tuned": "oom", "ultra": 50}
    assert call(*RUN) == 4
    runner.peaks = {"baseline": 400, "tuned": 1, "ultra": 1}
    assert call(*RUN, "--resume") == 4
    assert _models(runner) == ["baseline"]
    records = json.loads(Path("a.json").read_text())["records"]
    assert [(record["model"], record["status"]) for record in records] == [
        ("baseline", "ok"),
        ("tuned", "oom"),
        ("ultra", "ok"),
    ]
    assert records[2]["reduction"] == 1 - 50 / 400
    assert [note for note in records[2]["notes"] if note.startswith("verdict:")] == records[2]["notes"][-1:]


def test_cases_may_be_added(call, runner):
    _broken_off(call, runner)
    more = [word.replace("ultra", "ultra,muse") for word in RUN]
    assert call(*more, "--resume") == 0
    assert _models(runner) == ["ultra", "muse"]


def test_a_finished_run_is_not_lost_by_forgetting_to_go_on(call, runner, capsys):
    _broken_off(call, runner)
    before = Path("a.jsonl").read_bytes()
    capsys.readouterr()
    assert call(*RUN) == 2
    assert "a.jsonl: holds 2 finished cases of a run that broke off: add --resume" in capsys.readouterr().err
    assert Path("a.jsonl").read_bytes() == before


ELSEWHERE = [
    ({"torch": "9.0"}, "torch '2.13.0'"),
    ({"gpu": "NVIDIA H100"}, "gpu 'NVIDIA GeForce RTX 4060'"),
    ({"allocator_config": "expandable_segments:True"}, "allocator config ''"),
]


@pytest.mark.parametrize(("fields", "said"), ELSEWHERE)
def test_another_environment_is_refused(call, runner, monkeypatch, capsys, fields, said):
    _broken_off(call, runner)
    before = Path("a.jsonl").read_bytes()
    monkeypatch.setattr(runner, "environment", dataclasses.replace(runner.environment, **fields))
    capsys.readouterr()
    assert call(*RUN, "--resume") == 2
    assert f"a.jsonl: was begun with {said}" in capsys.readouterr().err
    assert Path("a.jsonl").read_bytes() == before


def test_measurements_are_no_predictions(call, runner, monkeypatch, capsys):
    _broken_off(call, runner)
    monkeypatch.setattr(runner, "backend", "cuda")
    measured = [word.replace("predict", "cuda") for word in RUN]
    assert call(*measured, "--resume") == 2
    assert "was begun with --backend predict" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("--models", "baseline,ultra"), "holds tuned, train, batch 1, seq 2048, which is not among the cases"),
        (("--seq", "64"), "holds baseline, train, batch 1, seq 2048, which is not among the cases"),
        (("--steps", "7"), "which is not among the cases"),
    ],
)
def test_a_case_that_is_not_asked_for_is_refused(call, runner, capsys, change, said):
    _broken_off(call, runner)
    assert call(*RUN, *change, "--resume") == 2
    assert said in capsys.readouterr().err


def test_records_without_a_proof_are_not_those_of_a_proven_run(call, runner, capsys):
    runner.peaks = {"tuned": KeyboardInterrupt()}
    one = ("verify-8gb", "--models", "ultra,tuned", "-o", "a.json", "--backend", "predict")
    assert call(*one) == 130
    assert call(*one, "--bisect", "--resume") == 2
    assert "was begun without --bisect" in capsys.readouterr().err
    assert call("compare", *one[1:], "--resume") == 2
    assert "was begun by 'muse-bench verify-8gb'" in capsys.readouterr().err


def test_what_is_no_journal_stays_as_it_is(call, runner, capsys):
    for text in ('{"question": 1}\n{"question": 2}\n', "plain text"):
        Path("a.jsonl").write_text(text)
        assert call(*RUN) == 2
        assert "a.jsonl" in capsys.readouterr().err
        assert Path("a.jsonl").read_text() == text


def test_resuming_needs_a_json_output_and_may_begin(call, runner, capsys):
    assert call(*RUN[:-2], "--resume") == 2
    assert "--resume goes on with the records of a .json output: add --output FILE.json" in capsys.readouterr().err
    assert call(*RUN, "--resume") == 0
    assert _models(runner) == ["baseline", "tuned", "ultra"]


def test_the_run_goes_on_with_what_is_known_of_its_gpu(call, runner, monkeypatch):
    """A case that crashes says nothing of its GPU, and one before it did."""
    known = dataclasses.replace(runner.environment, gpu_total_bytes=8 << 30, commit="aaaa")
    monkeypatch.setattr(runner, "environment", known)
    _broken_off(call, runner)
    monkeypatch.setattr(runner, "environment", Environment(muse_bench="0.1.0", torch="2.13.0", commit="bbbb"))
    assert call(*RUN, "--resume") == 0
    environment = json.loads(Path("a.json").read_text())["environment"]
    assert environment["gpu_total_bytes"] == 8 << 30
    assert environment["commit"] == "aaaa, bbbb"


@pytest.fixture
def two_gpus(runner, monkeypatch):
    devices = {number: DeviceName(f"GPU-{number}", "NVIDIA H200") for number in (0, 1)}
    monkeypatch.setattr(importlib.import_module("muse_bench.cli.run"), "chosen_devices", lambda _: devices)
    monkeypatch.setattr(runner, "backend", "cuda")


def test_several_gpus_give_rows_in_the_order_asked_for(call, runner, two_gpus):
    first_may_end = threading.Event()

    def slow(_):
        assert first_may_end.wait(30)
        return 400

    def last(_):
        first_may_end.set()
        return 50

    runner.peaks = {"baseline": slow, "tuned": 200, "ultra": last}
    assert call("compare", "--models", "baseline,tuned,ultra", "--devices", "all", "-o", "a.json") == 0
    assert [made.options["device"] for made in runner.made] == ["GPU-0", "GPU-1"]
    records = json.loads(Path("a.json").read_text())["records"]
    assert [record["model"] for record in records] == ["baseline", "tuned", "ultra"]
    assert records[2]["reduction"] == 1 - 50 / 400


def test_what_finished_on_another_gpu_is_kept(call, runner, two_gpus):
    others_are_done = threading.Event()

    def last(_):
        others_are_done.set()
        return 50

    def broken(_):
        assert others_are_done.wait(30)
        raise UsageError("the factory raised")

    runner.peaks = {"baseline": broken, "tuned": 200, "ultra": last}
    several = ("compare", "--models", "baseline,tuned,ultra", "--devices", "0,1", "-o", "a.json")
    assert call(*several) == 2
    kept = [json.loads(line).get("model") for line in Path("a.jsonl").read_text().splitlines()]
    assert "tuned" in kept
    runner.peaks = {"baseline": 400, "ultra": 50}
    assert call(*several, "--resume") == 0
    records = json.loads(Path("a.json").read_text())["records"]
    assert [record["parameters"] for record in records] == [400, 200, 50]


@pytest.mark.parametrize(
    "arguments",
    [
        ("compare", "--backend", "predict"),
        ("compare", "--gpu", "h200"),
        ("verify-8gb", "--params", "1b"),
        ("measure", "tuned+loss=plain", "--fsdp"),
        ("frontier",),
        ("calibrate",),
    ],
)
def test_where_several_gpus_have_no_place(call, two_gpus, capsys, arguments):
    assert call(*arguments, "--devices", "all") == 2
    assert "--devices" in capsys.readouterr().err


def test_an_output_that_cannot_be_gone_on_with_is_named_and_nothing_is_left(call, runner, capsys):
    Path("a.json").write_text("not a record")
    assert call(*RUN, "--resume") == 2
    assert "a.json: not a record file" in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["a.json"]


def test_two_runs_do_not_write_one_journal(call, runner, capsys):
    def another(_):
        return 1 if call(*RUN) == 2 else "crashed"

    runner.peaks = {"baseline": another}
    assert call(*RUN) == 0
    assert "a.jsonl: another run is writing it" in capsys.readouterr().err


def test_retries_are_a_number_of_times(call, runner, capsys):
    assert call(*RUN, "--retries", "-1") == 2
    assert "--retries -1 is no number of times" in capsys.readouterr().err
    assert call(*RUN, "--retries", "2", "--wait") == 0
    assert (runner.made[-1].options["retries"], runner.made[-1].options["waits"]) == (2, True)
