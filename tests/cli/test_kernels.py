"""The kernel benchmarks through the command, over workers that are invented."""

import csv
import dataclasses
import json
import os
from pathlib import Path

import pytest

from muse_bench.execution import gpu_lock
from muse_bench.file_lock import try_lock
from muse_bench.kernel_bench import benchmarks, runner
from muse_bench.kernel_bench.record import Rates, read_kernel_file
from muse_bench.measure.nvml import DeviceName

ROOT = Path(__file__).resolve().parents[2]
RATES = Rates(
    copy_bytes_per_second=4e12,
    fp32_operations_per_second=5e13,
    fp16_operations_per_second=7e14,
    bf16_operations_per_second=8e14,
)
FACTS = {"gpu": "NVIDIA H200", "gpu_total_bytes": 1 << 37, "compute_capability": "9.0"}
FIGURES = {
    "forward_seconds": 3e-5,
    "forward_wall_seconds": 9e-5,
    "forward_backward_seconds": 8e-5,
    "forward_backward_wall_seconds": 8e-5,
    "peak_bytes": 100 << 20,
    "written_bytes": 64 << 20,
}


class Machine:
    """`found` holds what a contender gives where it is not figures: values, or an exception."""

    def __init__(self):
        self.unavailable, self.found, self.asked, self.timeouts = None, {}, [], []

    def hello(self):
        return {"environment": {"muse_bench": "0.1.0", "torch": "2.11.0"}, "cuda_unavailable": self.unavailable}

    def ask(self, request, timeout_seconds, say):
        say("working")
        self.timeouts.append(timeout_seconds)
        if request["task"] == "rates":
            values = {"rates": dataclasses.asdict(RATES), "gpu": FACTS}
        else:
            self.asked.append((request["kernel"], request["case"], request["contender"]))
            values = self.found.get(request["contender"], FIGURES)
        if isinstance(values, BaseException):
            raise values
        return {"kind": "result", "status": "ok", "reason": None, "values": dict(values)}

    def close(self):
        pass


@pytest.fixture
def machine(monkeypatch):
    invented = Machine()
    monkeypatch.setattr(runner, "WorkerProcess", lambda *_: invented)
    monkeypatch.setattr(runner, "driver_version", lambda: None)
    return invented


def test_every_case_of_every_kernel_is_measured_and_saved_in_three_formats(call, machine, capsys, tmp_path):
    assert call("kernels", "-o", "a.json", "-o", "a.csv", "-o", "a.md") == 0
    run = read_kernel_file(tmp_path / "a.json")
    assert {row.kernel for row in run.rows} == set(benchmarks())
    assert (run.environment.gpu, run.rates) == ("NVIDIA H200", RATES)
    assert run.command == "muse-bench kernels -o a.json -o a.csv -o a.md"
    shown = capsys.readouterr().out
    for text in (shown, (tmp_path / "a.md").read_text()):
        assert "rms_norm: 16,384 x 1,024 + residual bf16" in text
        assert "Goals: " in text
    lines = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert len(lines) == len(run.rows)
    assert lines[0]["scratch_bytes"] == str(36 << 20)


def test_only_chooses_by_kernel_and_case(call, machine, capsys):
    assert call("kernels", "--only", "rms-norm 16,384 x 4") == 0
    assert {(kernel, case) for kernel, case, _ in machine.asked} == {("rms_norm", 2)}
    assert "Goals: " in capsys.readouterr().out


def test_a_peer_that_is_missing_is_named_and_nothing_fails(call, machine, capsys, tmp_path):
    machine.found["Liger"] = {"status": "missing", "reason": "ModuleNotFoundError: No module named 'liger_kernel'"}
    assert call("kernels", "--only", "rms_norm", "-o", "a.json") == 0
    assert "Liger is not installed: ModuleNotFoundError: No module named 'liger_kernel'" in capsys.readouterr().out
    rows = read_kernel_file(tmp_path / "a.json").rows
    assert {row.status for row in rows if row.contender == "Liger"} == {"missing"}


def test_our_own_failure_is_told_by_the_exit_code(call, machine, capsys):
    machine.found["muse_kernels"] = {"status": "crashed", "reason": "CompilationError: no"}
    assert call("kernels", "--only", "rms_norm") == 4
    assert "muse_kernels failed: CompilationError: no" in capsys.readouterr().out


def test_ctrl_c_keeps_what_has_finished(call, machine, capsys, tmp_path):
    machine.found["Liger"] = KeyboardInterrupt()
    assert call("kernels", "--only", "rms_norm 16", "-o", "a.json") == 130
    assert len(read_kernel_file(tmp_path / "a.json").rows) == 3
    assert "interrupted: 0 of 3 cases finished" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="locks of files")
def test_a_gpu_that_another_run_measures_on_is_left_alone(call, machine, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_lock, "device_name", lambda *_: DeviceName("GPU-aaaa-0", "NVIDIA H200"))
    monkeypatch.setattr(gpu_lock, "lock_file", lambda uuid: tmp_path / uuid)
    with (tmp_path / "GPU-aaaa-0").open("w") as held:
        assert try_lock(held.fileno())
        assert call("kernels", "--only", "rms_norm 16") == 2
    assert "NVIDIA H200 is measured on by another process: two runs would disturb" in capsys.readouterr().err
    assert machine.asked == []
    assert call("kernels", "--only", "rms_norm 16") == 0


def test_a_saved_run_is_shown_and_written_again_without_a_gpu(call, machine, capsys, tmp_path):
    assert call("kernels", "--only", "rms_norm", "-o", "a.json") == 0
    shown = capsys.readouterr().out
    machine.unavailable = "no CUDA device is visible"
    assert call("kernels", "--from", "a.json", "-o", "b.md", "-o", "b.json") == 0
    assert capsys.readouterr().out == shown
    assert (tmp_path / "b.json").read_text() == (tmp_path / "a.json").read_text()


def test_several_saved_runs_follow_one_another(call, machine, capsys, tmp_path):
    for name in ("rms_norm", "int8_linear"):
        assert call("kernels", "--only", name, "-o", f"{name}.json") == 0
    capsys.readouterr()
    assert call("kernels", "--from", "rms_norm.json", "--from", "int8_linear.json", "-o", "a.md") == 0
    assert "int8_linear: " in capsys.readouterr().out
    assert "int8_linear: " in (tmp_path / "a.md").read_text()


def test_without_a_gpu_it_says_what_can_be_done(call, machine, capsys, tmp_path):
    machine.unavailable = "no CUDA device is visible"
    assert call("kernels", "-o", "a.json") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("no CUDA device is visible: `muse-bench kernels --from FILE` shows a saved run")
    assert list(tmp_path.iterdir()) == []


def test_the_timeout_reaches_the_workers(call, machine):
    assert call("kernels", "--only", "int8", "--timeout", "40") == 0
    assert set(machine.timeouts) == {40}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "flash"], "the kernels are"),
        (["--timeout", "0"], "--timeout 0"),
        (["--timeout", "nan"], "--timeout nan"),
        (["-o", "a.pdf"], ".csv, .html, .json, .md"),
        (["-o", "no/a.json"], "no/a.json"),
        (["--from", "none.json"], "none.json: cannot be read"),
        (["--from", "other.json"], "other.json: not a record file"),
        (["--from", "broken.json"], "broken.json: not a record file"),
        (["--from", "a.json", "--only", "x"], "leave out --only"),
    ],
)
def test_a_wrong_option_or_file_is_one_line_and_nothing_runs(call, machine, capsys, tmp_path, arguments, said):
    (tmp_path / "other.json").write_text(json.dumps({"schema_version": 1, "records": []}))
    (tmp_path / "broken.json").write_text('{"schema_version": 1, "benchmarks": [')
    assert call("kernels", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert machine.asked == []


def test_the_real_worker_says_why_nothing_can_be_measured(muse_bench):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"}
    process = muse_bench("kernels", "--only", "rms_norm", env=environment)
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert "kernels needs a CUDA GPU" in line


def test_what_an_output_holds_is_not_measured_again(call, machine, capsys, tmp_path):
    """An hour of benchmarks began anew after a Ctrl-C; a case that broke off is measured whole, for its goals."""
    assert call("kernels", "--only", "rms_norm 16", "-o", "whole.json") == 0
    every = list(machine.asked)
    machine.asked.clear()
    machine.found["Liger"] = KeyboardInterrupt()
    assert call("kernels", "--only", "rms_norm 16", "-o", "a.json", "--resume") == 130  # nothing is there to go on with
    assert "--resume" in capsys.readouterr().err
    del machine.found["Liger"]
    machine.found["torch.compile"] = {"status": "crashed", "reason": "no"}
    assert call("kernels", "--only", "rms_norm 16", "-o", "a.json", "--resume") == 0
    del machine.found["torch.compile"]
    machine.asked.clear()
    assert call("kernels", "--only", "rms_norm 16", "-o", "a.json", "--resume") == 0
    assert machine.asked == every  # each had a crash
    machine.asked.clear()
    assert call("kernels", "--only", "rms_norm 16", "-o", "a.json", "--resume") == 0
    assert machine.asked == []
    rows = read_kernel_file(tmp_path / "a.json").rows
    whole = read_kernel_file(tmp_path / "whole.json").rows
    assert [row.goals for row in rows[: len(whole)]] == [row.goals for row in whole]


def test_going_on_needs_a_file_and_the_same_card(call, machine, capsys, tmp_path):
    assert call("kernels", "--only", "rms_norm 16", "--resume") == 2
    assert "add --output NAME.json" in capsys.readouterr().err
    assert call("kernels", "--only", "rms_norm 16", "-o", "a.json") == 0
    capsys.readouterr()
    text = (tmp_path / "a.json").read_text().replace("NVIDIA H200", "NVIDIA L4")
    (tmp_path / "a.json").write_text(text)
    assert call("kernels", "--only", "rms_norm 16", "-o", "a.json", "--resume") == 2
    assert "benchmarks of gpu NVIDIA L4, and here it is NVIDIA H200" in capsys.readouterr().err
    assert (tmp_path / "a.json").read_text() == text
