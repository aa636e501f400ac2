"""On a real GPU: the pytest plugin measures, in a process of its own, and names who holds the memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu
TESTS = """
import pytest
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(1000, 512)
        self.head = nn.Linear(512, 1000)

    def forward(self, ids):
        return self.head(self.table(ids))

@pytest.mark.limit_vram("64 GiB")
def test_that_fits(vram):
    assert vram(Model, vocab=1000, seq=128).provenance == "measured"

@pytest.mark.limit_vram("1 MiB")
def test_that_does_not(vram):
    vram(Model, vocab=1000, seq=128)
"""


def test_a_limit_holds_what_was_measured(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "muse_bench.pytest_plugin"]
    folders = os.pathsep.join(str(Path(one).resolve()) for one in sys.path if one)
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), "test_it.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": folders},
        capture_output=True,
        text=True,
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "more than the limit of 1.0 MiB" in done.stdout
    assert "parameters" in done.stdout
    assert "test_it.py:" in done.stdout  # the line of the class that holds the most
