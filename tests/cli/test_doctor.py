"""The doctor: in a real process on a machine without a GPU, and over workers and an NVML that are invented."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from muse_bench.doctor import machine as doctor_machine
from muse_bench.doctor import trial as doctor_trial
from muse_bench.doctor.host import Host
from muse_bench.doctor.machine import Examiner
from muse_bench.errors import UsageError
from muse_bench.execution.process import WorkerDied
from muse_bench.measure.driver import Driver
from muse_bench.measure.nvml import DeviceView, OtherProcess
from muse_bench.measure.nvml_device import NOT_INSTALLED

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
SOFTWARE = {"torch": "2.13.0+cu130", "triton": "3.7.0", "cuda": "13.0"}
GPU = {"gpu": "NVIDIA GeForce RTX 4060", "gpu_total_bytes": 8188 * MIB, "compute_capability": "8.9", "devices": 1}
RATES = {"to_device": 25.0e9, "to_host": 24.0e9, "both": 20.0e9}
CHECKS = [["rms_norm", "fp32"], ["rms_norm", "bf16"], ["tt_linear", "fp32"], ["tt_linear", "fp16"]]
PASSES = {"status": "ok", "worst": "output", "worst_share": 0.25}
WRONG = {
    "status": "wrong",
    "worst": "gradient of core1",
    "worst_share": 12.5,
    "reason": "gradient of core1 errs 12.5 times what is allowed",
}


class Workers:
    """Every worker process of the invented machine. `answers` holds values, a failed result or an exception."""

    def __init__(self):
        self.software, self.unavailable, self.started, self.asked = dict(SOFTWARE), None, 0, []
        link = {"rates": RATES, "pinned_bytes": 256 * MIB, "refused": None}
        self.answers = {"gpu": GPU, "link": link, "import": {"reason": None}, "list": {"checks": CHECKS}}
        self.pid = 42

    def start(self, *_):
        self.started += 1
        return self

    def hello(self):
        if isinstance(self.unavailable, Exception):
            raise self.unavailable
        return {"environment": self.software, "cuda_unavailable": self.unavailable}

    def ask(self, request, timeout_seconds, say):
        self.asked.append((request["task"], timeout_seconds))
        key = f"{request['operation']} {request['dtype']}" if request["task"] == "check" else request["task"]
        found = self.answers.get(key, PASSES)
        if isinstance(found, BaseException):
            raise found
        if isinstance(found, str):
            return {"status": "oom" if "OutOfMemory" in found else "crashed", "reason": found, "values": {}}
        return {"status": "ok", "reason": None, "values": dict(found)}

    def close(self):
        pass


@pytest.fixture
def workers(monkeypatch, runner):
    """A machine with one RTX 4060 where everything works; `view` is what NVML sees of the worker."""
    invented = Workers()
    invented.view = DeviceView(process_peak_bytes=300 * MIB, other_processes=(), interval_seconds=0.005)

    class Sampler:
        def __init__(self, pid):
            assert pid == invented.pid

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def stop(self):
            return invented.view

    for name in [*os.environ]:
        if name.startswith(("PYTORCH_", "CUBLAS", "TORCH_", "TRITON_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(doctor_machine, "WorkerProcess", invented.start)
    monkeypatch.setattr(doctor_machine, "NvmlSampler", Sampler)
    invented.driver = Driver(version="580.1", cuda=(13, 0), title=str(GPU["gpu"]))
    monkeypatch.setattr(Driver, "seen", classmethod(lambda cls: invented.driver))
    monkeypatch.setattr(Host, "seen", classmethod(lambda cls: Host(total_bytes=64 * MIB, available_bytes=32 * MIB)))
    monkeypatch.setattr(doctor_trial, "Runner", runner)
    monkeypatch.setattr(doctor_machine.shutil, "which", lambda name: f"/usr/bin/{name}")
    return invented


@pytest.fixture
def examine(call, workers, tmp_path, capsys):
    """Runs the doctor; returns its exit code, what it printed, and its facts by name from the JSON file."""

    def run(*arguments):
        code = call("doctor", "-o", "a.json", *arguments)
        found = json.loads((tmp_path / "a.json").read_text())
        return SimpleNamespace(
            code=code,
            shown=" ".join(capsys.readouterr().out.split()),
            facts={fact["what"]: fact for fact in found["facts"]},
            kernels=found["kernels"],
            summary=found["summary"],
            abilities=found["abilities"],
            sound=found["sound"],
        )

    return run


@pytest.mark.parametrize("columns", ["80", "120"])
def test_a_machine_without_a_gpu_is_fine(muse_bench, columns):
    paths = f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": paths, "COLUMNS": columns}
    process = muse_bench("doctor", env=environment)
    assert (process.returncode, process.stderr) == (0, "")
    shown = " ".join(process.stdout.split())
    assert "This machine can predict, not measure: " in shown
    for text in ("Python ok", "torch ok", "CUDA missing", "NVML", "self-check missing"):
        assert text in shown
    assert max(map(len, process.stdout.splitlines())) <= int(columns)


def test_a_gpu_where_everything_works(examine, workers):
    found = examine()
    assert found.code == 0
    assert found.summary == "This machine can measure, on NVIDIA GeForce RTX 4060, and predict"
    assert {fact["state"] for name, fact in found.facts.items() if name != "transformers"} == {"ok"}
    assert found.facts["GPU"]["found"] == "NVIDIA GeForce RTX 4060, 8,188.0 MiB, compute capability 8.9"
    assert found.facts["context"]["found"].endswith("estimated")
    assert found.facts["context"]["found"].startswith("rtx-4060: ")
    assert found.facts["driver"]["found"] == "580.1, for CUDA up to 13.0; torch has 13.0"
    assert found.facts["host link"]["found"] == "25.0 GB/s to the device, 24.0 back, 20.0 each way at once"
    assert found.facts["pinned memory"]["found"].startswith("256.0 MiB were pinned")
    assert found.facts["main job"]["found"].startswith("muse-bench compare works")
    assert {ability["source"] for ability in found.abilities} == {"measured", "sampled"}
    assert "Self-check of the kernels: 4 of 4 pass" in found.shown
    assert "rms_norm 25.0 % 25.0 % -" in found.shown
    assert workers.started == 1


def test_a_wrong_gradient_is_named_and_told_by_the_exit_code(examine, workers):
    workers.answers["tt_linear fp16"] = WRONG
    found = examine()
    assert found.code == 1
    assert "3 of 4 pass" in found.shown
    assert "tt_linear fp16 WRONG: gradient of core1 errs 12.5 times what is allowed" in found.shown
    assert found.kernels[-1]["status"] == "wrong"
    assert workers.started == 1


@pytest.mark.parametrize(
    "crash", [WorkerDied("the worker process was killed by signal 11"), "AcceleratorError: CUDA error: illegal access"]
)
def test_a_crash_is_named_and_the_next_check_gets_another_process(examine, workers, crash):
    workers.answers["rms_norm bf16"] = crash
    found = examine()
    assert found.code == 1
    assert f"rms_norm bf16 CRASHED: {crash}" in found.shown
    assert [one["status"] for one in found.kernels] == ["ok", "crashed", "ok", "ok"]
    assert workers.started == 2


def test_the_same_reason_is_told_once(examine, workers):
    for name, dtype in CHECKS:
        workers.answers[f"{name} {dtype}"] = {"status": "crashed", "reason": "RuntimeError: no C compiler"}
    found = examine()
    assert found.code == 1
    assert found.shown.count("no C compiler") == 1
    assert workers.started == 1


def test_too_little_memory_is_no_crash(examine, workers):
    workers.answers["rms_norm fp32"] = "OutOfMemoryError: CUDA out of memory"
    found = examine()
    assert (found.code, found.kernels[0]["status"]) == (1, "oom")


def test_ctrl_c_keeps_what_has_finished(call, workers, capsys, tmp_path):
    workers.answers["tt_linear fp32"] = KeyboardInterrupt()
    assert call("doctor", "-o", "a.json") == 130
    assert "2 of 2 pass" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "a.json").read_text())["kernels"]) == 2


def test_the_checks_can_be_left_out(examine, workers):
    found = examine("--no-kernels", "-o", "a.md")
    assert (found.code, found.kernels) == (0, [])
    assert "self-check" not in found.facts
    assert "check" not in {task for task, _ in workers.asked}
    assert "| what" in Path("a.md").read_text()


def test_the_timeout_reaches_the_checks(examine, workers):
    examine("--timeout", "40")
    assert {seconds for task, seconds in workers.asked if task == "check"} == {40}


def test_without_triton_nothing_is_checked(examine, workers):
    workers.software["triton"] = None
    found = examine()
    assert (found.code, found.kernels) == (0, [])
    assert found.facts["Triton"]["state"] == "missing"
    assert found.facts["self-check"]["found"] == "the kernels' self-check needs Triton"


def test_a_triton_that_does_not_import_is_broken(examine, workers):
    workers.answers["import"] = {"reason": "ImportError: libtriton.so"}
    found = examine()
    assert (found.code, found.kernels) == (1, [])
    assert found.facts["Triton"] == {
        "what": "Triton",
        "state": "failed",
        "found": "ImportError: libtriton.so",
        "advice": "install the triton that torch asks for",
    }


def test_a_missing_compiler_is_a_warning(examine, workers, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(doctor_machine.shutil, "which", lambda name: None)
    assert examine().facts["Triton"]["state"] == "warning"


def test_a_torch_that_does_not_start_is_broken(examine, workers):
    workers.unavailable = WorkerDied("the worker process was ended with exit status 1: ImportError: libcudart")
    found = examine()
    assert found.code == 1
    assert "neither measure nor predict" in found.summary
    assert found.facts["torch"]["state"] == "failed"


def test_a_gpu_that_does_not_compute_is_broken(examine, workers):
    workers.answers["gpu"] = "AcceleratorError: no kernel image is available"
    found = examine()
    assert found.code == 1
    assert found.facts["CUDA"]["state"] == "failed"
    assert found.kernels == []


def test_a_gpu_that_torch_cannot_use_is_broken(examine, workers):
    """The main job would predict there, where measuring was meant, and nobody would notice."""
    workers.unavailable, workers.software["cuda"] = "this build of torch (2.13.0+cpu) has no CUDA", None
    found = examine()
    assert (found.code, found.sound) == (1, False)
    assert found.facts["CUDA"]["advice"].startswith("install a build of torch with CUDA")
    assert found.facts["GPU"]["state"] == "failed"


def test_a_gpu_that_is_hidden_is_none(examine, workers):
    workers.unavailable = "no CUDA device is visible"
    workers.driver = Driver(version="580.1", title_unavailable="CUDA_VISIBLE_DEVICES='' hides it")
    found = examine()
    assert (found.code, found.facts["GPU"]["state"]) == (0, "missing")
    assert {ability["source"] for ability in found.abilities} == {"predicted", "unavailable"}
    assert all(ability["advice"] for ability in found.abilities)


@pytest.mark.parametrize("ending", ["oom", "crashed", UsageError("the worker process did not start"), OSError("full")])
def test_a_main_job_that_fails_is_told_by_the_exit_code(examine, runner, ending):
    runner.peaks["muse"] = ending
    found = examine()
    assert (found.code, found.facts["main job"]["state"]) == (1, "failed")
    assert "muse-bench compare does not work" in found.summary
    assert ("muse ended as" in found.summary) == isinstance(ending, str)


def test_json_is_all_that_stdout_gets(call, workers, capsys):
    assert call("doctor", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schema_version"], found["sound"], len(found["kernels"])) == (1, True, 4)


def test_json_of_an_interrupted_run_is_whole(call, workers, capsys):
    workers.answers["tt_linear fp32"] = KeyboardInterrupt()
    assert call("doctor", "--json") == 130
    assert len(json.loads(capsys.readouterr().out)["kernels"]) == 2


def test_memory_that_cannot_be_pinned_is_a_warning(examine, workers):
    refused = "host memory is short: CUDA refused"
    workers.answers["link"] = {"rates": None, "pinned_bytes": None, "refused": refused}
    found = examine()
    assert (found.code, found.facts["pinned memory"]["state"]) == (0, "warning")
    assert "host link" not in found.facts
    (models,) = (one for one in found.abilities if one["what"] == "models in host memory")
    assert (models["source"], models["found"]) == ("unavailable", refused)


def test_a_link_that_ends_its_process_is_a_reason_and_the_checks_go_on(examine, workers):
    workers.answers["link"] = WorkerDied("the worker process was killed by signal 9")
    found = examine()
    assert (found.code, len(found.kernels)) == (0, 4)
    assert "signal 9" in found.facts["pinned memory"]["found"]


def test_a_process_that_cannot_be_started_is_a_reason(examine, workers, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(doctor_machine, "WorkerProcess", fail)
    found = examine()
    assert found.code == 1
    assert "No space left" in found.summary


@pytest.mark.parametrize("reason", [NOT_INSTALLED, "NVML could not start: Driver/library version mismatch"])
def test_nvml_is_missing_with_its_reason(examine, workers, reason):
    workers.driver = Driver(unavailable=reason)
    workers.view = DeviceView(interval_seconds=0.005, unavailable_reason=reason)
    found = examine()
    assert found.code == 0
    assert [found.facts[name]["state"] for name in ("NVML", "process memory", "other processes")] == 3 * ["missing"]
    assert found.facts["process memory"]["found"] == reason


def test_other_processes_are_a_warning(examine, workers):
    others = (OtherProcess(7, "python", 900 * MIB), OtherProcess(8, None, None))
    workers.view = DeviceView(process_peak_bytes=MIB, other_processes=others, interval_seconds=0.005)
    fact = examine().facts["other processes"]
    assert fact["state"] == "warning"
    assert fact["found"] == "pid 7 (python) holds 900.0 MiB; pid 8 (unknown) holds an unknown amount"


def test_a_gpu_outside_the_table_is_a_warning(examine, workers):
    workers.answers["gpu"] = {**GPU, "gpu": "NVIDIA Q1", "compute_capability": "6.1", "devices": 2}
    found = examine()
    assert (found.facts["context"]["state"], found.facts["GPU"]["state"]) == ("warning", "warning")
    assert "the first of 2" in found.facts["GPU"]["found"]


def test_the_measured_context_is_called_measured(examine, workers):
    workers.answers["gpu"] = {**GPU, "gpu": "NVIDIA H200"}
    assert examine().facts["context"]["found"] == "h200: 614.0 MiB, measured"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PYTORCH_ALLOC_CONF", "expandable_segments:True", "expandable_segments:True"),
        ("PYTORCH_CUDA_ALLOC_CONF", "backend:cudaMallocAsync", "does not take 'cudaMallocAsync'"),
        ("CUBLAS_WORKSPACE_CONFIG", ":0:0", ":0:0"),
        ("CUBLASLT_WORKSPACE_SIZE", "0", "0"),
        ("PYTORCH_NO_CUDA_MEMORY_CACHING", "1", "1"),
        ("TRITON_INTERPRET", "1", "1"),
    ],
)
def test_a_setting_that_changes_results_is_a_warning(examine, workers, monkeypatch, name, value, said):
    monkeypatch.setenv(name, value)
    found = examine("--no-kernels")
    assert found.code == 0
    assert found.facts[name]["state"] == "warning"
    assert said in found.facts[name]["found"]
    assert "environment" not in found.facts


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--timeout", "0"], "--timeout 0"), (["-o", "a.csv"], ".json, .md"), (["-o", "no/a.md"], "no/a")],
)
def test_a_wrong_option_is_one_line_and_nothing_runs(call, workers, capsys, arguments, said):
    assert call("doctor", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert workers.started == 0


def test_the_real_worker_checks_a_kernel_and_outlives_one_that_raises(monkeypatch):
    monkeypatch.setattr(doctor_machine, "VARIABLES", {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""})
    with Examiner(timeout_seconds=100) as examiner:
        assert ("rms_norm", "bf16") in examiner.checks()
        crashed = examiner.check("no_such_kernel", "fp32", device="cpu")
        assert (crashed.status, crashed.reason) == ("crashed", "KeyError: 'no_such_kernel'")
        passed = examiner.check("rms_norm", "bf16", device="cpu")
        assert passed.status == "ok"
        assert 0 < passed.worst_share < 1
