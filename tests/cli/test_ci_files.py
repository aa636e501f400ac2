"""The reusable workflow and the pre-commit hooks: their commands are run as they stand."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).resolve().parents[2]
MODEL = "from torch import nn\n\ndef build():\n    return nn.Sequential(nn.Embedding(300, {0}), nn.Linear({0}, 300))\n"


@pytest.fixture
def shell(tmp_path):
    """Runs a script as a runner of GitHub does, in a folder with a model, and muse-bench on the path."""
    program = tmp_path / "bin" / "muse-bench"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m muse_bench "$@"\n')
    program.chmod(0o755)
    paths = os.pathsep.join((str(ROOT), str(ROOT / "kernels")))
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"

    def run(script, **variables):
        environment = {**os.environ, "PYTHONPATH": paths, "PATH": path, "GITHUB_STEP_SUMMARY": "", **variables}
        return subprocess.run(
            ["bash", "-e", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )

    return run


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_workflow_passes_with_its_baseline_and_fails_when_the_model_grows(shell, tmp_path):
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "vram.yml").read_text())
    inputs = workflow[True]["workflow_call"]["inputs"]  # YAML takes the word `on` for true
    steps = {step.get("name"): step.get("run") for step in workflow["jobs"]["vram"]["steps"]}
    command = {"COMMAND": "predict model.py:build --gpu rtx-4060 --vocab 300 --seq 64"}
    limits = {"BASELINE": inputs["baseline"]["default"], "FAIL_ON": inputs["fail-on"]["default"]}

    (tmp_path / "model.py").write_text(MODEL.format(64))
    assert shell(steps["Predict"], **command).returncode == 0
    missing = shell(steps["Check"], **limits)
    assert missing.returncode == 2
    assert "--save-baseline" in missing.stderr
    shutil.copy(tmp_path / "vram.json", tmp_path / "vram-baseline.json")
    assert shell(steps["Check"], **limits).returncode == 0
    (tmp_path / "model.py").write_text(MODEL.format(65))
    assert shell(steps["Predict"], **command).returncode == 0
    grown = shell(steps["Check"], **limits)
    assert grown.returncode == 1
    assert "parameters:0" in grown.stdout


def test_the_hooks_are_commands_that_there_are(shell):
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert [hook["id"] for hook in hooks] == ["muse-bench-predict", "muse-bench-check"]
    for hook in hooks:
        assert hook["language"] == "python"
        assert hook["pass_filenames"] is False
        shown = shell(f"{hook['entry']} --help")
        assert (shown.returncode, "Examples:" in shown.stdout) == (0, True)
