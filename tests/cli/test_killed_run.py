"""A long sweep that is killed at random moments and resumed gives what one that ran through gives."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from muse_bench.journal import RESUME

SWEEP = ("--vocab", "61", "--d-model", "16", "--layers", "1", "--heads", "2", "--seq", "16", "--param", "batch")
MODELS, VALUES, KILLS = "baseline,tuned,ultra,muse", ",".join(map(str, range(1, 16))), 3
CASES = 60
PATIENCE_SECONDS = 120.0


def _start(folder: Path, *more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "muse_bench", "sweep", *SWEEP, "--models", MODELS, "--values", VALUES]
    paths = os.pathsep.join(path for path in sys.path if path)
    no_git = {"PATH": str(folder)}  # whose answer may change while the test runs
    return subprocess.Popen(
        [*command, "--backend", "predict", "-o", "a.json", "-o", "a.md", *more],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "COLUMNS": "120", **no_git},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finished(folder: Path) -> int:
    """The records in the journal, of a line each."""
    journal = folder / "a.jsonl"
    lines = journal.read_bytes().splitlines() if journal.exists() else []
    return sum(b'"case_id"' in line for line in lines)


def _kill_after(process: "subprocess.Popen[str]", folder: Path, count: int, seconds: float) -> list[str]:
    """Kills it a moment after so many cases; returns its workers."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while _finished(folder) < count and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    assert process.wait(PATIENCE_SECONDS) == -signal.SIGKILL, "it was over before it was killed"
    process.communicate()
    return workers


def _lives(pid: str) -> bool:
    """Whether the process is there, and not only its exit status, which nobody may come to ask for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _outcome(folder: Path, process: "subprocess.Popen[str]") -> list[object]:
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, err) == (0, "")
    run = json.loads((folder / "a.json").read_text())
    assert all(record.pop("duration_seconds") > 0 for record in run["records"])
    return [out, (folder / "a.md").read_text(), run]


@pytest.mark.skipif(sys.platform != "linux", reason="where Linux lists a process's children")
def test_a_sweep_that_is_killed_three_times_gives_the_same_table(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    moments = random.Random(9)
    counts = sorted(moments.sample(range(1, CASES - 5), KILLS))
    through = _outcome(whole, _start(whole))
    more: tuple[str, ...] = ()
    for count in counts:
        process = _start(broken, *more)
        workers = _kill_after(process, broken, count, moments.uniform(0, 0.2))
        more = (RESUME,)
        assert workers
        deadline = time.monotonic() + PATIENCE_SECONDS
        while any(map(_lives, workers)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not any(map(_lives, workers)), "a worker outlived its run"
    kept = _finished(broken)
    assert kept >= counts[-1]
    assert _outcome(broken, _start(broken, *more)) == through
    assert not (broken / "a.jsonl").exists()
