"""What grew between two files and between two commits, by the real process in real repositories."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GIT = ("git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main")
FACTORY = """from torch import nn
from parts import WIDTH

def build():
    return nn.Sequential(nn.Embedding(300, WIDTH), nn.Linear(WIDTH, 300))
"""
TINY = ("--models", "model.py:build", "--vocab", "300", "--seq", "64")
SLEEPER = """import time

def build():
    open("../started", "w").close()
    time.sleep(60)
"""
# Stands for a commit of this project: its records are those of a file that it holds.
OWN = """import pathlib, shutil, sys
assert sys.argv[1] == "compare"
told = pathlib.Path(__file__).parents[1] / "docs" / "told.json"
shutil.copy(told, sys.argv[sys.argv.index("--output") + 1])
"""


@pytest.fixture
def saved(call, runner, tmp_path):
    """Writes records in which each model has a peak in MiB."""

    def save(name, *arguments, **peaks):
        runner.peaks = peaks
        assert call("compare", "--models", ",".join(peaks), "--output", name, *arguments) in (0, 4)
        return json.loads((tmp_path / name).read_text())

    return save


def _git(folder, *arguments):
    return subprocess.run([*GIT, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def commit(tmp_path):
    """Commits files to the repository in the folder `work`; returns the folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    _git(folder, "init", "--quiet")

    def add(files):
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        _git(folder, "add", "--all")
        _git(folder, "commit", "--quiet", "--message", "more")
        return folder

    return add


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """The folder for temporary files, where nothing of ours may be left."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def _is_as_before(work, scratch):
    """Whether no work tree and no temporary file is left, and nothing in the repository has changed."""
    trees = _git(work, "worktree", "list").splitlines()
    return len(trees) == 1 and not list(scratch.glob("muse-bench-*")) and _git(work, "status", "--porcelain") == ""


def test_two_files(saved, call, tmp_path, capsys):
    saved("a.json", ultra=100, tuned=50, baseline=10)
    saved("b.json", ultra=112, tuned=50, muse=5)
    capsys.readouterr()
    assert call("diff", "a.json", "b.json", "-o", "d.md", "-o", "d.csv", "-o", "d.json") == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("+12.0 MiB +12.0 %", "only before: baseline", "only after: muse", "unchanged: tuned"):
        assert words in shown
    assert "## ultra: what changed" in (tmp_path / "d.md").read_text()
    assert json.loads((tmp_path / "d.json").read_text())["only_after"] == ["muse"]


def test_a_failed_case_is_told_and_is_in_the_exit_code(saved, call, capsys):
    saved("a.json", ultra=100)
    saved("b.json", ultra="oom")
    capsys.readouterr()
    assert call("diff", "a.json", "b.json") == 4
    assert "after: ultra ran out of memory" in capsys.readouterr().out


def test_what_else_differs_is_told(saved, call, capsys, tmp_path):
    values = saved("a.json", ultra=100)
    values["environment"]["torch"] = "2.12.0"
    (tmp_path / "b.json").write_text(json.dumps(values))
    capsys.readouterr()
    assert call("diff", "a.json", "b.json") == 0
    assert "torch differs: 2.13.0 before, 2.12.0 after" in capsys.readouterr().out


def test_a_users_model_at_two_commits_with_its_own_imports(muse_bench, commit, scratch):
    """With the imports of the working folder both commits would be alike."""
    commit({"model.py": FACTORY, "src/parts.py": "WIDTH = 64\n"})
    work = commit({"src/parts.py": "WIDTH = 128\n"})
    (work / "src" / "parts.py").write_text("WIDTH = 7\n")  # not committed, and so in neither
    process = muse_bench("diff", "--git", "HEAD~1..HEAD", *TINY, "-o", "d.json", cwd=work)
    assert process.returncode == 0, process.stderr
    assert "HEAD~1" in process.stdout
    (case,) = json.loads((work / "d.json").read_text())["cases"]
    assert case["figures"]["parameters"]["before"] == 300 * 64 * 2 + 300
    assert case["figures"]["parameters"]["after"] == 300 * 128 * 2 + 300
    assert {place["module"] for place in case["places"]} >= {"0", "1"}
    (work / "d.json").unlink()
    _git(work, "checkout", "src")
    assert _is_as_before(work, scratch)


def test_a_repository_of_this_project_predicts_with_its_own_code(muse_bench, commit, saved, scratch, tmp_path):
    before = saved("a.json", ultra=100)
    after = {**saved("b.json", ultra=112)}
    after["records"][0]["config"]["embedding_rank"] = 99  # a preset that the commit changed
    commit({"muse_bench/__init__.py": "", "muse_bench/__main__.py": OWN, "docs/told.json": json.dumps(before)})
    work = commit({"docs/told.json": json.dumps(after)})
    process = muse_bench("diff", "--git", "HEAD~1..", "--models", "ultra", cwd=work / "docs")
    assert process.returncode == 0, process.stderr
    assert "+12.0 MiB" in process.stdout
    assert "embedding_rank: 4 -> 99" in " ".join(process.stdout.split())
    assert _is_as_before(work, scratch)


def test_a_commit_that_cannot_be_predicted_is_told_and_cleaned_up(muse_bench, commit, scratch):
    commit({"model.py": "def build():\n    raise ValueError('half done')\n"})
    work = commit({"model.py": FACTORY, "parts.py": "WIDTH = 64\n"})
    process = muse_bench("diff", "--git", "HEAD~1..HEAD", *TINY, cwd=work)
    assert process.returncode == 2
    assert "at HEAD~1" in process.stderr.splitlines()[-1]
    assert "half done" in process.stderr.splitlines()[-1]
    assert "Traceback" not in process.stderr
    assert _is_as_before(work, scratch)


def test_an_interrupt_leaves_nothing_behind(commit, scratch):
    commit({"model.py": SLEEPER})
    work = commit({"other.py": ""})
    paths = os.pathsep.join((str(ROOT), str(ROOT / "kernels")))
    command = [sys.executable, "-m", "muse_bench", "diff", "--git", "HEAD~1..HEAD", *TINY]
    environment = {**os.environ, "PYTHONPATH": paths}
    process = subprocess.Popen(command, cwd=work, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(scratch.glob("*/started")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(scratch.glob("*/started"))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("muse-bench: interrupted")
    assert _is_as_before(work, scratch)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.json"], ["1 record file", "two"]),
        ([], ["0 record files", "--git"]),
        (["a.json", "a.json", "--seq", "9"], ["--seq", "--git"]),
        (["a.json", "a.json", "--models", "ultra"], ["--models", "--git"]),
        (["a.json", "none.json"], ["none.json"]),
        (["a.json", "--git", "a..b"], ["--git", "record files"]),
        (["--git", "HEAD"], ["'HEAD'", "BASE..HEAD"]),
        (["--git", "a...b"], ["'a...b'", "BASE..HEAD"]),
        (["--git", "none..HEAD"], ["'none'", "commit"]),
        (["--git", "--all..HEAD"], ["'--all'", "commit"]),
        (["--git", "HEAD..HEAD", "--models", "/mine.py:build"], ["/mine.py:build", "same file"]),
    ],
)
def test_mistakes_are_one_line(saved, call, commit, monkeypatch, capsys, arguments, words):
    saved("a.json", ultra=100)
    work = commit({"a.json": Path("a.json").read_text()})
    monkeypatch.chdir(work)
    capsys.readouterr()
    assert call("diff", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for word in words:
        assert word in line


def test_git_needs_a_repository(call, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert call("diff", "--git", "a..b") == 2
    assert "not a git repository" in capsys.readouterr().err
