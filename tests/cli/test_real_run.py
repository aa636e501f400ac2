"""The whole way through real processes, on models small enough for it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from muse_bench.record import read_run_file

SMALL = ("--vocab", "500", "--d-model", "64", "--layers", "2", "--heads", "4", "--seq", "32")


def test_compare_predicts_and_writes(muse_bench, tmp_path):
    process = muse_bench("compare", *SMALL, "--models", "baseline,ultra", "--backend", "predict", "-o", "a.json")
    assert (process.returncode, process.stderr) == (0, "")
    assert "predicted for" in process.stdout
    for record in read_run_file(tmp_path / "a.json").records:
        assert record.status == "ok"
        assert record.ledger is not None
        assert record.ledger.total == record.peak_allocated_bytes
        assert record.verdict == "PASS"


def test_a_users_factory_is_predicted(muse_bench, tmp_path):
    lines = [
        "from torch import nn",
        "def build():",
        "    return nn.Sequential(nn.Embedding(500, 16), nn.Linear(16, 500))",
    ]
    (tmp_path / "mine.py").write_text("\n".join(lines))
    process = muse_bench("predict", "mine.py:build", *SMALL)
    assert process.returncode == 0, process.stderr
    assert "mine.py:build" in process.stdout
    assert "peak allocated" in process.stdout


def test_a_case_over_its_time_is_a_row(muse_bench, tmp_path):
    slow = "import time\ndef build():\n    time.sleep(600)\n"
    (tmp_path / "slow.py").write_text(slow)
    models = "slow.py:build,baseline"
    limited = ("--timeout", "10", "--backend", "predict", "-o", "a.json")
    process = muse_bench("compare", "--models", models, *SMALL, *limited)
    assert process.returncode == 4, process.stderr
    assert "slow.py:build crashed: timed out after 10 s" in process.stdout
    assert [record.status for record in read_run_file(tmp_path / "a.json").records] == ["crashed", "ok"]


def _lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.skipif(sys.platform != "linux", reason="signals, and where Linux lists a process's children")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_keeps_the_finished_case_and_leaves_no_process(tmp_path, number):
    (tmp_path / "slow.py").write_text("import time\ndef build():\n    time.sleep(600)\n")
    command = [sys.executable, "-m", "muse_bench", "compare", "--models", "baseline,slow.py:build", *SMALL]
    process = subprocess.Popen(
        [*command, "--backend", "predict", "-o", "a.json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and _lines(tmp_path / "a.jsonl") != 2:  # its head and the first record
        time.sleep(0.05)
    workers = _children(process.pid)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert err.startswith("muse-bench: interrupted: 1 of 2 cases finished; go on with: muse-bench compare --models ")
    assert err.endswith(" -o a.json --resume\n")
    assert err.count("\n") == 1
    assert workers
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert "baseline" in out
    assert [record["model"] for record in json.loads((tmp_path / "a.json").read_text())["records"]] == ["baseline"]


def test_sizes_that_overflow_are_a_usage_error(muse_bench):
    """A tensor whose bytes no 64-bit number can hold is the user's slip, not a crash of the case."""
    done = muse_bench("predict", "baseline", "--vocab", str(1 << 40), "--d-model", str(1 << 30))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "the sizes overflow" in done.stderr


def test_a_frontier_is_predicted_and_its_edge_is_where_the_verdict_turns(muse_bench, tmp_path):
    sized = ("--models", "baseline", *SMALL[:-2], "--gpu", "h200")
    process = muse_bench("frontier", *sized, "--vary", "seq", "--budgets", "1.5GiB", "-o", "edge.json")
    assert (process.returncode, process.stderr) == (0, "")
    (edge,) = read_run_file(tmp_path / "edge.json").records
    assert edge.verdict == "PASS"
    beyond = muse_bench("verify-8gb", *sized, "--seq", str(edge.seq + 64), "--budget", "1.5GiB")
    assert beyond.returncode == 3, beyond.stdout


def test_a_prediction_bisects_the_smallest_budget(muse_bench, tmp_path):
    asked = ("--models", "baseline", "--backend", "predict", "--bisect")
    process = muse_bench("verify-8gb", *SMALL, "--batch", "64", *asked, "-o", "a.json")
    assert (process.returncode, process.stderr) == (0, "")
    assert "smallest" in process.stdout
    (record,) = read_run_file(tmp_path / "a.json").records
    assert (
        record.peak_allocated_bytes < record.smallest_budget_bytes - record.context_bytes <= record.peak_reserved_bytes
    )


def test_a_number_of_parameters_and_weights_in_host_memory_are_in_the_record(muse_bench, tmp_path):
    process = muse_bench("predict", "muse", "--params", "2m", "--vocab", "500", "--seq", "32", "-o", "a.json")
    assert (process.returncode, process.stderr) == (0, "")
    (record,) = read_run_file(tmp_path / "a.json").records
    assert 2_000_000 <= record.parameters < 2_500_000
    assert f"which has {record.parameters:,}" in record.notes[0]
    assert record.to_device_bytes > record.to_host_bytes > record.host_bytes["weights"]
    assert record.link_seconds == record.to_device_bytes / 15_753_846_153
    assert "over the host link (PCIe 4.0 x8, theoretical)" in process.stdout
