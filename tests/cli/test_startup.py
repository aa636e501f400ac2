"""Help, version and mistakes come at once: nothing heavy is imported for them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from muse_bench import __version__
from muse_bench.cli import COMMANDS

HEAVY = ("torch", "pandas", "numpy", "triton", "altair", "vl_convert")
ROOT = Path(__file__).resolve().parents[2]
PROBE = f"""
import sys
from muse_bench.cli import main
sys.argv[0] = "muse-bench"
main()
print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["compare", "--help"],
        ["--version"],
        ["compare", "--heads", "7"],
        ["report", "none.json"],
        ["check", "none.json", "--against", "none.json"],
        ["diff", "none.json", "none.json"],
        ["calibrate", "--only", "none"],
        ["kernels", "--only", "none"],
        ["quality", "--tokens", "none"],
    ],
)
def test_help_and_mistakes_import_neither_torch_nor_pandas(arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "kernels")))}
    command = [sys.executable, "-c", PROBE, *arguments]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert process.stderr.splitlines()[-1] == "[]"


def test_help_names_every_command_and_exit_code(muse_bench):
    process = muse_bench("--help")
    assert process.returncode == 0
    for command in COMMANDS:
        assert command.__name__.replace("_", "-") in process.stdout
    assert "130 interrupted" in process.stdout


def test_without_a_command_there_is_help_and_no_success(muse_bench):
    process = muse_bench()
    assert process.returncode == 2
    assert "Commands" in process.stdout


def test_the_version(muse_bench):
    process = muse_bench("--version")
    assert (process.returncode, process.stdout) == (0, f"muse-bench {__version__}\n")


@pytest.mark.parametrize("command", [command.__name__.replace("_", "-") for command in COMMANDS])
def test_every_command_has_help_with_examples(call, capsys, command):
    assert call(command, "--help") == 0
    shown = capsys.readouterr().out
    assert f"muse-bench {command}" in shown
    assert "Examples:" in shown
