"""The quality bench through the command: over workers that are invented, and the whole way with real ones."""

import csv
import os
import random
from pathlib import Path

import pytest

from muse_bench.quality import runner
from muse_bench.quality.record import read_quality_file
from muse_bench.quality.trial import Trial

ROOT = Path(__file__).resolve().parents[2]
WORDS = ("def", "return", "value", "index", "for", "in", "range", "self", "None", "if", "else", "yield")
SMALL = ("--vocab", "300", "--d-model", "32", "--layers", "1", "--heads", "4", "--seq", "16", "--batch", "4")
SHORT = ("--text", "book.txt", *SMALL, "--tokens", "4K")


class Workers:
    """`found` holds the validation loss by model, or an exception."""

    def __init__(self):
        self.asked, self.found, self.torch = [], {}, "2.13.0"

    def __call__(self, *_):
        return self

    def hello(self):
        return {"environment": {"muse_bench": "0.1.0", "torch": self.torch}, "cuda_unavailable": "none"}

    def ask(self, request, timeout_seconds, say):
        trial = Trial.from_json(request["trial"])
        self.asked.append((trial.case.model, trial.stage, trial.case.seed))
        found = self.found.get(trial.case.model, 3.0)
        if isinstance(found, BaseException):
            raise found
        values = {"status": "ok", "validation_loss": found + trial.lr, "bits_per_byte": 1.5, "curve": [[64, 5.0]]}
        return {"status": "ok", "reason": None, "values": values}

    def close(self):
        pass


@pytest.fixture(autouse=True)
def book(tmp_path, monkeypatch):
    """A text of 20 KiB in the folder that commands run in, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    draw = random.Random(0)
    lines = [" ".join(draw.choice(WORDS) for _ in range(12)) for _ in range(300)]
    path = tmp_path / "book.txt"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def workers(monkeypatch):
    found = Workers()
    monkeypatch.setattr(runner, "WorkerProcess", found)
    return found


def test_models_are_swept_trained_saved_and_shown_again(call, workers, capsys, tmp_path):
    workers.found = {"tuned": 2.5}
    assert call("quality", *SHORT, "--models", "baseline,tuned", "-o", "a.json", "-o", "a.csv", "-o", "a.md") == 0
    run = read_quality_file(tmp_path / "a.json")
    assert len(run.rows) == 12
    assert {row.lr for row in run.rows if row.stage == "final"} == {3e-4}
    assert (run.corpus.source, run.tokenizer.vocab) == ("book.txt", 300)
    shown = capsys.readouterr().out
    for text in (shown, (tmp_path / "a.md").read_text()):
        assert "Quality after 4.0 K tokens" in text
        assert "-0.5000" in text
    assert len(list(csv.DictReader((tmp_path / "a.csv").open()))) == 12
    assert call("quality", "--from", "a.json", "-o", "b.json") == 0
    assert capsys.readouterr().out == shown
    assert (tmp_path / "b.json").read_text() == (tmp_path / "a.json").read_text()


def test_an_interrupted_run_is_gone_on_with(call, workers, capsys, tmp_path):
    workers.found = {"tuned": KeyboardInterrupt()}
    command = ("quality", *SHORT, "--models", "baseline,tuned", "--lrs", "1e-3", "--seeds", "0,1", "-o", "a.json")
    assert call(*command) == 130
    assert "interrupted: 2 of 4 cases finished" in capsys.readouterr().err
    assert len(read_quality_file(tmp_path / "a.json").rows) == 2
    workers.found, workers.asked = {}, []
    assert call(*command) == 0
    assert workers.asked == [("tuned", "final", 0), ("tuned", "final", 1)]
    assert len(read_quality_file(tmp_path / "a.json").rows) == 4


def test_another_model_joins_the_record(call, workers, capsys, tmp_path):
    common = (*SHORT, "--lrs", "1e-3", "--seeds", "0", "-o", "a.json")
    assert call("quality", *common, "--models", "baseline") == 0
    assert call("quality", *common, "--models", "ultra") == 0
    assert [row.model for row in read_quality_file(tmp_path / "a.json").rows] == ["baseline", "ultra"]


@pytest.mark.parametrize(
    ("arguments", "torch", "said"),
    [
        (("--text", "other.txt", *SMALL, "--tokens", "4K"), "2.13.0", "runs of another text"),
        (("--text", "book.txt", *SMALL, "--vocab", "310", "--tokens", "4K"), "2.13.0", "runs of another tokenizer"),
        (SHORT, "2.11.0", "runs of another torch"),
    ],
)
def test_runs_that_may_not_stand_together_are_refused(call, workers, capsys, tmp_path, book, arguments, torch, said):
    (tmp_path / "other.txt").write_text(book.read_text() + "one line more\n")
    common = ("--lrs", "1e-3", "--seeds", "0", "--models", "ultra", "-o", "a.json")
    assert call("quality", *SHORT, *common) == 0
    before = (tmp_path / "a.json").read_text()
    workers.torch = torch
    capsys.readouterr()
    assert call("quality", *arguments, *common) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert (tmp_path / "a.json").read_text() == before


def test_a_run_that_failed_is_told_by_the_exit_code(call, workers, capsys):
    workers.found = {"ultra": runner.WorkerDied("timed out after 9 s")}
    assert call("quality", *SHORT, "--models", "baseline,ultra", "--lrs", "1e-3", "--seeds", "0") == 4
    assert "ultra, rate 0.001, seed 0 failed: timed out after 9 s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--text", "empty.txt", *SMALL), "empty.txt: is empty"),
        (("--text", "none.txt", *SMALL), "none.txt: cannot be read"),
        (("--text", "short.txt", *SMALL, "--tokens", "4K"), "holds no text that could be split"),
        ((*SHORT, "--seq", "8000", "--tokens", "90K"), "less than a sequence of 8,000"),
        ((*SHORT, "--tokens", "63"), "--tokens 63 is less than one step: batch 4 x seq 16 is 64"),
        ((*SHORT, "--sweep-tokens", "1"), "--sweep-tokens 1 is less than one step"),
        ((*SHORT, "--tokens", "many"), "'many' is not a count"),
        ((*SHORT, "--lrs", "1e-3,0"), "--lrs '1e-3,0'"),
        ((*SHORT, "--lrs", "fast"), "--lrs 'fast'"),
        ((*SHORT, "--seeds", "0,-1"), "--seeds '0,-1'"),
        ((*SHORT, "--models", "encoder"), "'encoder' is not causal"),
        ((*SHORT, "--models", "muse", "--dtype", "fp16"), "'muse' updates in backward"),
        ((*SHORT, "--models", "ultra", "--baseline", "tuned"), "--baseline 'tuned'"),
        ((*SHORT, "--vocab", "200"), "--vocab 200 is too small"),
        ((*SHORT, "--timeout", "0"), "--timeout 0"),
        ((*SHORT, "--hf-dataset", "wikitext"), "choose one"),
        ((*SHORT, "-o", "a.pdf"), ".csv, .html, .json, .md"),
        ((*SHORT, "-o", "book.json"), "book.json: not a record file"),
        (("--from", "book.json"), "book.json: not a record file"),
        (("--resume",), "add --output NAME.json"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_runs(call, workers, capsys, tmp_path, arguments, said):
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "short.txt").write_text("a word")
    (tmp_path / "book.json").write_text("{}")
    assert call("quality", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert workers.asked == []


def test_without_tokenizers_it_says_what_to_install(call, workers, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert call("quality", *SHORT) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("quality needs the package tokenizers: pip install 'muse-bench[quality]'")


def test_the_whole_way(muse_bench, tmp_path):
    process = muse_bench(
        *("quality", *SHORT, "--models", "baseline,ultra", "--lrs", "1e-2", "--seeds", "0", "-o", "a.json"),
        env={
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "",
            "COLUMNS": "120",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}",
        },
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert "Quality after 4.0 K tokens" in process.stdout
    for row in read_quality_file(tmp_path / "a.json").rows:
        assert (row.status, row.peak_allocated_bytes, row.tokens) == ("ok", None, 3_968)
        assert row.bits_per_byte > 0
        assert row.curve[-1][1] < row.curve[0][1]
    assert not list((tmp_path / "cache" / "muse-bench" / "quality" / "unfinished").glob("*"))
