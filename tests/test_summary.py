"""What `pytest --summary FILE` writes of a run of the kernels' tests."""

import subprocess
import sys
from pathlib import Path

import pytest

from muse_bench.execution.runner import source_commit

ROOT = Path(__file__).parents[1]


def test_a_summary_says_which_commit_was_tested(tmp_path: Path) -> None:
    """A table of tests that passed, of nobody knows which kernels."""
    pytest.importorskip("triton")
    path = tmp_path / "summary.md"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/muse_kernels/test_host_rows.py"]
    subprocess.run([*command, "--summary", str(path)], cwd=ROOT, check=True, capture_output=True)
    first, *_, last = path.read_text(encoding="utf-8").splitlines()
    assert f"; commit {source_commit() or 'unknown'}, torch " in first
    assert last.startswith("| all | ")
