"""Cases run in processes of their own: what a case does to its process never reaches the next one."""

import contextlib
import dataclasses
import os
import re
import signal
import time
from pathlib import Path

import pytest

from muse_bench.config import Case, Sizes
from muse_bench.errors import MuseBenchError, UsageError
from muse_bench.execution import pool as pool_module
from muse_bench.execution import runner as runner_module
from muse_bench.execution.blank import blank_record
from muse_bench.execution.process import WorkerDied, WorkerProcess
from muse_bench.execution.protocol import TIMING
from muse_bench.execution.runner import Runner
from muse_bench.measure.nvml import DeviceName, DeviceView
from muse_bench.models.presets import PRESETS
from muse_bench.predict.gpus import find_gpu

SIZES = Sizes(vocab_size=61, d_model=32, n_layers=2, n_heads=4, seq_len=16)
MIB = 1 << 20

FACTORIES = """
import ctypes, os, signal, sys, time
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(61, 8)

    def forward(self, ids):
        return self.table(ids) @ self.table.weight.t()

class Chosen(Model):
    def forward(self, ids):
        logits = super().forward(ids)
        return logits[: int((logits > 0).sum().item()) + 1]

def noisy():
    for _ in range(2_000):
        print('{"kind": "result", "status": "ok", "values": {}}' * 10)
    os.write(1, b"to the descriptor itself\\n" * 1_000)
    ctypes.CDLL(None).puts(b"from C")
    print("to stderr " * 10_000, file=sys.stderr)
    return Model()

def raising():
    raise ValueError("no weights here")

def exiting():
    print("the last words", file=sys.stderr, flush=True)
    os._exit(3)

def killed():
    os.kill(os.getpid(), signal.SIGKILL)

def sleeping():
    time.sleep(600)

def failing_once():
    if not os.path.exists(__file__ + ".failed"):
        open(__file__ + ".failed", "w").close()
        os._exit(3)
    return Model()
"""


@pytest.fixture(scope="module")
def progress():
    return []


@pytest.fixture(scope="module")
def runner(progress):
    """Predicts for an RTX 3080; started in an environment with settings that the runs must not inherit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
        patch.setenv("CUBLASLT_WORKSPACE_SIZE", "1")
        with Runner("predict", gpu="rtx-3080", timeout_seconds=300, on_progress=progress.append) as started:
            yield started


@pytest.fixture(scope="module")
def factories(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "factories.py"
    path.write_text(FACTORIES)
    return path


@pytest.fixture
def external(factories):
    def make(factory, **changes):
        return Case(model=f"{factories}:{factory}", config=None, seq=12, vocab_size=61, **changes)

    return make


def preset(name="baseline", **changes):
    config = PRESETS[name].configure(SIZES)
    return Case(model=name, config=config, seq=12, vocab_size=61, **{"batch": 2, **changes})


def run_one(runner, case):
    (record,) = runner.run([case])
    return record


def assert_whole(record):
    """A record of a case that ran: all of it there, and adding up."""
    assert (record.status, record.reason, record.provenance) == ("ok", None, "predicted")
    assert record.ledger.total == record.peak_allocated_bytes > 0
    assert record.device_peak_bytes == record.context_bytes + record.peak_reserved_bytes
    assert record.peak_reserved_bytes >= max(record.peak_allocated_bytes, record.cold_peak_allocated_bytes)
    assert sum(row.ledger.total for row in record.modules) == record.peak_allocated_bytes
    assert max(point.ledger.total for point in record.timeline) == record.peak_allocated_bytes


# --- predictions, by real processes


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("baseline", {}),
        ("extreme", {"dtype": "fp16", "micro_batch": 1, "seed": 3, "workspace": "off"}),
        ("encoder", {"mode": "forward-backward"}),
        ("ultra", {"mode": "inference", "logits": "last"}),
        ("tuned", {"mode": "decode", "new_tokens": 3}),
    ],
)
def test_a_case_becomes_a_record(runner, name, changes):
    case = preset(name, **changes)
    record = run_one(runner, case)
    assert_whole(record)
    assert record.config == case.to_json()["config"]
    asked = ("model", "mode", "dtype", "batch", "seq", "micro_batch", "seed", "logits", "budget_bytes", "limit_bytes")
    assert [getattr(record, field) for field in asked] == [getattr(case, field) for field in asked]
    assert record.workspace_setting == case.workspace
    assert record.optimizer == ("adamw" if case.mode == "train" else None)
    assert (record.state_per_sequence_bytes is not None) == (case.mode == "decode")
    assert record.new_tokens == (3 if case.mode == "decode" else None)
    assert record.gpu == find_gpu("rtx-3080").title
    assert record.device_peak_provenance == "predicted"
    assert record.context_bytes >= find_gpu("rtx-3080").context_bytes
    assert record.parameters > 0
    assert record.duration_seconds > 0
    assert record.step_time_seconds is record.tokens_per_second is record.verdict is None  # missing is not zero
    assert (record.ledger.workspace == 0) == (case.workspace == "off")
    if case.single_step:
        assert record.peak_allocated_bytes == record.cold_peak_allocated_bytes


def test_a_prediction_repeats_itself(runner):
    """Cases share a process; none may leave a mark on the next."""
    first, _, again = runner.run([preset(), preset("ultra"), preset()])
    for field in ("peak_allocated_bytes", "cold_peak_allocated_bytes", "peak_reserved_bytes", "ledger", "modules"):
        assert getattr(first, field) == getattr(again, field), field


def test_the_environment_says_what_was_predicted_for(runner):
    gpu = find_gpu("rtx-3080")
    assert runner.backend == "predict"
    assert runner.environment.gpu == gpu.title
    assert runner.environment.gpu_total_bytes == gpu.total_bytes
    assert runner.environment.compute_capability == "8.6"
    assert runner.environment.torch
    assert runner.environment.cublas_workspace_config == ""  # not what this process was started with


def test_progress_tells_which_case_is_doing_what(runner, progress):
    progress.clear()
    cases = [preset(), preset("ultra")]
    list(runner.run(cases))
    assert {told.total for told in progress} == {2}
    for index, case in enumerate(cases):
        told = [one for one in progress if one.index == index]
        assert {one.case.model for one in told} == {case.model}
        phases = [one.phase for one in told]
        assert phases[:2] == ["starting", "building"]
        assert phases[2:5] == ["step 1 of 3", "step 2 of 3", "step 3 of 3"]


def test_a_factory_that_prints_does_not_disturb_the_answers(runner, external):
    """Whatever it prints, by Python, by the descriptor or from C, and even if it looks like an answer."""
    noisy, after = runner.run([external("noisy"), preset()])
    assert_whole(noisy)
    assert_whole(after)
    assert noisy.parameters == 61 * 8


def test_a_factory_that_raises_is_the_users_to_mend(runner, external):
    with pytest.raises(UsageError, match="raised ValueError: no weights here"):
        run_one(runner, external("raising"))
    assert_whole(run_one(runner, preset()))


def test_a_model_that_cannot_be_traced_is_a_row_that_says_so(runner, external):
    """Its shapes depend on values, which a prediction has none of."""
    record, after = runner.run([external("Chosen", mode="inference"), preset()])
    assert record.status == "crashed"
    assert re.search("nonzero|_local_scalar_dense", record.reason)
    assert "\n" not in record.reason
    assert record.ledger is record.peak_allocated_bytes is record.device_peak_bytes is None
    assert_whole(after)


def test_a_process_that_dies_is_a_row_and_the_next_case_runs(runner, external):
    exited, after, killed = runner.run([external("exiting"), preset(), external("killed")])
    assert exited.status == killed.status == "crashed"
    assert exited.reason == "the worker process was ended with exit status 3: the last words"
    assert killed.reason.startswith("the worker process was killed by signal 9")
    assert exited.peak_allocated_bytes is killed.peak_allocated_bytes is None
    assert_whole(after)


def test_a_case_that_hangs_is_a_row_and_its_process_is_ended(runner, external, monkeypatch):
    pid = runner._pool.first().pid
    with monkeypatch.context() as patch:
        patch.setattr(runner, "_timeout_seconds", 0.5)
        record = run_one(runner, external("sleeping"))
    assert (record.status, record.reason) == ("crashed", "timed out after 0.5 s")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_case_that_crashed_is_tried_again(runner, external, monkeypatch):
    monkeypatch.setattr(runner, "_retries", 2)
    record, exited = runner.run([external("failing_once"), external("exiting")])
    assert_whole(record)
    assert "took 2 tries; before: the worker process was ended with exit status 3" in record.notes[-1]
    assert exited.status == "crashed"
    assert exited.notes[-1].startswith("took 3 tries;")


def test_a_case_that_ran_out_of_memory_is_not_tried_again(runner, monkeypatch):
    tries = []

    def run_once(case, *_):
        tries.append(case)
        return dataclasses.replace(blank_record(case, "predicted", None), status="oom", reason="too much")

    monkeypatch.setattr(runner, "_retries", 2)
    monkeypatch.setattr(runner, "_run_once", run_once)
    assert run_one(runner, preset()).notes == ()
    assert len(tries) == 1


def test_leaving_ends_the_process():
    with Runner("predict") as started:
        pid = started._pool.first().pid
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_nothing_can_be_measured_without_a_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UsageError, match=r"nothing can be measured here: .*; use --backend predict"), Runner("cuda"):
        pytest.fail("there is no GPU to measure on")


def test_an_unknown_gpu_is_refused_before_anything_starts(monkeypatch):
    monkeypatch.setattr(pool_module, "WorkerProcess", lambda _: pytest.fail("a process was started"))
    with pytest.raises(UsageError, match="'rtx-9999' is not a known GPU"), Runner("predict", gpu="rtx-9999"):
        pytest.fail("there is no such GPU")


def test_a_worker_that_does_not_start_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(MuseBenchError, match=r"did not start: .* exit status 1"), Runner("predict"):
        pytest.fail("there is no worker")


# --- measurements, and what else needs no real process


class FakeWorker:
    """Answers as a worker on a GPU; `answers` holds the result of each task, or the exception that ends it."""

    answers: dict = {}  # noqa: RUF012
    all: list = []  # noqa: RUF012
    paused_while_timing: list = []  # noqa: RUF012
    unavailable = None

    def __init__(self, environment):
        self.paused = False
        self.environment, self.tasks, self.closed, self.pid = environment, [], False, 1_000 + len(self.all)
        self.requests = []
        self.all.append(self)

    def hello(self):
        return {"environment": {"muse_bench": "0.1.0"}, "cuda_unavailable": self.unavailable}

    def ask(self, request, timeout_seconds, on_phase):
        self.tasks.append(request["task"])
        self.requests.append(request)
        answer = self.answers[request["task"]]
        if isinstance(answer, Exception):
            raise answer
        on_phase("building")
        if request["task"] == "peaks":
            on_phase(TIMING)
            self.paused_while_timing.append({one.pid for one in self.all if one.paused})
        status = answer.get("status", "ok")
        values = {key: dict(value) if isinstance(value, dict) else value for key, value in answer.items()}
        return {"kind": "result", "status": status, "reason": answer.get("reason"), "values": values}

    def pause(self):
        self.paused = True

    def resume(self):
        self.paused = False

    def close(self):
        self.closed = True


class FakeSampler:
    """Stands in for NVML: it saw 900 MiB at the most."""

    def __init__(self, **_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def watch(self, pid):
        pass

    def stop(self):
        return DeviceView(process_peak_bytes=900 * MIB, interval_seconds=0.005)


PEAKS = {
    "peaks": {
        "parameters": 7,
        "peak_allocated_bytes": 100 * MIB,
        "cold_peak_allocated_bytes": 90 * MIB,
        "peak_reserved_bytes": 120 * MIB,
        "step_time_seconds": 0.5,
        "tokens_per_second": 48.0,
        "host_bytes": {"checkpoints": 5},
        "to_device_bytes": 40 * MIB,
        "to_host_bytes": 10 * MIB,
    },
    "capped": None,
    "link": None,
    "gpu": {"gpu": "NVIDIA H200", "gpu_total_bytes": 1 << 37, "compute_capability": "9.0"},
}
LEDGER = {
    "ledger": {"parameters": 60 * MIB, "activations_saved": 30 * MIB, "unattributed": 1 * MIB},
    "modules": [{"module": "head", "ledger": {"parameters": 60 * MIB}}],
    "timeline": [{"phase": "backward", "ledger": {"parameters": 60 * MIB}}],
}

PREDICTED = {
    **LEDGER,
    "parameters": 7,
    "steady_peak_allocated_bytes": 91 * MIB,
    "cold_peak_allocated_bytes": 95 * MIB,
    "peak_reserved_bytes": 120 * MIB,
    "context_bytes": 300 * MIB,
    "host_bytes": {"checkpoints": 5},
}


@pytest.fixture
def worker(monkeypatch):
    monkeypatch.setattr(pool_module, "WorkerProcess", FakeWorker)
    monkeypatch.setattr(runner_module, "NvmlSampler", FakeSampler)
    monkeypatch.setattr(runner_module, "driver_version", lambda: "580.0")
    monkeypatch.setattr(runner_module, "taken_gpu", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(FakeWorker, "answers", {"peaks": PEAKS, "ledger": LEDGER, "predict": PREDICTED})
    monkeypatch.setattr(FakeWorker, "all", [])
    monkeypatch.setattr(FakeWorker, "paused_while_timing", [])
    return FakeWorker


def test_a_case_is_measured_on_the_device_that_is_named(worker, monkeypatch):
    """By its worker, by NVML and by the lock; the environment names it before anything has run."""
    taken, sampled = [], []

    @contextlib.contextmanager
    def take(uuid, *, waits, say):
        taken.append((uuid, waits))
        yield DeviceName("GPU-bbbb-1", "NVIDIA H200")
        taken.append("left")

    class Sampler(FakeSampler):
        def __init__(self, **options):
            sampled.append(options)

    monkeypatch.setattr(runner_module, "taken_gpu", take)
    monkeypatch.setattr(runner_module, "NvmlSampler", Sampler)
    with Runner("cuda", device="GPU-bbbb-1", waits=False) as runner:
        assert taken == [("GPU-bbbb-1", False)]
        assert runner.environment.gpu == "NVIDIA H200"
        run_one(runner, preset())
    assert taken[-1] == "left"
    assert sampled == [{"device_uuid": "GPU-bbbb-1"}]
    assert {one.environment["CUDA_VISIBLE_DEVICES"] for one in worker.all} == {"GPU-bbbb-1"}


def test_a_gpu_that_is_refused_leaves_no_process(worker, monkeypatch):
    def refuse(*_, **__):
        raise UsageError("NVIDIA H200 is measured on by process 7")

    monkeypatch.setattr(runner_module, "taken_gpu", refuse)
    with pytest.raises(UsageError, match="process 7"), Runner("cuda"):
        pytest.fail("two runs measure")
    assert all(one.closed for one in worker.all)


def test_a_measurement_has_its_headline_and_its_ledger_from_two_fresh_processes(worker):
    """The instrumented run is 9 MiB short of the peak that was measured; those have no name."""
    with Runner("cuda") as runner:
        record = run_one(runner, preset())
        assert runner.environment.gpu == "NVIDIA H200"
        assert runner.environment.driver == "580.0"
    assert record.provenance == "measured"
    assert record.peak_allocated_bytes == record.ledger.total == 100 * MIB
    assert record.ledger.unattributed == 10 * MIB
    assert record.modules[0].module == "head"
    assert record.step_time_seconds == 0.5
    assert (record.device_peak_bytes, record.device_peak_provenance) == (900 * MIB, "sampled")
    assert record.context_bytes == 780 * MIB
    assert sorted(one.tasks for one in worker.all if one.tasks) == [["ledger"], ["peaks"]]
    assert all(one.closed for one in worker.all)


def test_a_snapshot_is_asked_of_a_run_of_its_own(worker, tmp_path, monkeypatch):
    """Its file is named in full, for the worker's folder may be another one; what it fails of takes nothing else."""
    monkeypatch.chdir(tmp_path)
    worker.answers["snapshot"] = {}
    with Runner("cuda", snapshot=Path("a.pickle")) as runner:
        run_one(runner, preset())
        worker.answers["snapshot"] = {"status": "crashed", "reason": "no room"}
        record = run_one(runner, preset())
    asked = {request["task"]: request.get("snapshot") for one in worker.all for request in one.requests}
    assert asked == {"peaks": None, "ledger": None, "snapshot": str(tmp_path / "a.pickle")}
    assert record.ledger is not None
    assert "no snapshot: no room" in record.notes


UNDER_A_CAP = {
    **PEAKS,
    "capped": {"cap_bytes": 5 << 30, "context_bytes": 600 * MIB, "alloc_retries": 1},
    "link": {"to_device": 100.0 * MIB, "to_host": 50.0 * MIB, "both": 25.0 * MIB},
}


def streamed(mode, **changes):
    return preset("muse", mode=mode, **changes)


def test_cases_with_one_model_in_host_memory_share_a_capped_process(worker):
    """Each would fill host memory anew; 10 MiB cross in both directions at 25 MiB/s, and 30 MiB alone at 100."""
    worker.answers["peaks"] = UNDER_A_CAP
    cases = [streamed("inference"), streamed("decode"), streamed("inference", seed=1), preset("tuned")]
    with Runner("cuda", caps=True) as runner:
        records = list(runner.run(cases))
    tasks = sorted(one.tasks for one in worker.all if one.tasks)
    assert tasks == [["ledger"], ["peaks"], ["peaks"], ["peaks", "peaks"]]
    assert all(one.closed for one in worker.all)
    for record in records[:3]:
        assert record.ledger is None
        assert record.proof.ran
        assert record.proof.cap_bytes == 5 << 30
        assert record.proof.alloc_retries == 1
        assert record.link_seconds == pytest.approx(10 / 25 + 30 / 100)


def test_a_cap_that_is_too_small_says_what_would_do(worker, monkeypatch):
    """The prediction is for the GPU that is here: 100 MiB of context and 500 reserved are 600, and a tenth is left."""
    monkeypatch.setattr(runner_module, "choose_gpu", lambda name: find_gpu("h200"))
    worker.answers["peaks"] = {"status": "oom", "reason": "out of memory"}
    worker.answers["predict"] = {**PREDICTED, "context_bytes": 100 * MIB, "peak_reserved_bytes": 500 * MIB}
    with Runner("cuda", caps=True) as runner:
        record = run_one(runner, streamed("inference"))
    assert record.status == "oom"
    assert "predicted to need 600.0 MiB of the device: give --budget 667MiB or more" in record.notes


def test_what_takes_long_to_fill_is_not_bisected_in_silence(worker):
    worker.answers["peaks"] = UNDER_A_CAP
    with Runner("cuda", caps=True, bisects=True) as runner:
        record = run_one(runner, streamed("inference"))
    assert record.smallest_budget_bytes is None
    assert any("no smallest budget" in note for note in record.notes)


def test_a_model_is_not_kept_by_a_process_that_failed(worker):
    worker.answers["peaks"] = {"status": "oom", "reason": "9 GiB"}
    with Runner("cuda", caps=True) as runner:
        failed, again = runner.run([streamed("inference"), streamed("decode")])
    assert failed.status == again.status == "oom"
    assert sorted(one.tasks for one in worker.all if one.tasks) == [["peaks"], ["peaks"]]
    assert all(one.closed for one in worker.all)


def test_a_device_that_held_more_than_the_limit_is_no_proof(worker):
    """The context grew after the cap was set: 900 MiB were sampled."""
    worker.answers["peaks"] = UNDER_A_CAP
    with Runner("cuda", caps=True) as runner:
        record = run_one(runner, streamed("inference", budget_bytes=800 * MIB))
    assert record.proof is None
    assert any("no proof" in note for note in record.notes)


def test_no_process_measures_two_cases(worker):
    """What the first case's libraries keep would be part of the second's peak."""
    with Runner("cuda") as runner:
        list(runner.run([preset(), preset("ultra"), preset("tuned")]))
    assert max(len(one.tasks) for one in worker.all) == 1
    assert sum(len(one.tasks) for one in worker.all) == 6
    assert all(one.closed for one in worker.all)


def test_processes_that_wait_are_still_while_steps_are_timed(worker):
    """They import for seconds, which made a step that launches many kernels twice as long."""
    with Runner("cuda") as runner:
        run_one(runner, preset())
        (paused,) = worker.paused_while_timing
        at_work = next(one for one in worker.all if one.tasks == ["peaks"])
        assert paused
        assert at_work.pid not in paused
        assert not any(one.paused for one in worker.all)


WAITING = """
import json, sys

def say(**message):
    print(json.dumps(message), flush=True)

say(kind="hello")
sys.stdin.readline()
say(kind="phase", text="timing")
say(kind="result", status="ok", reason=None, values={"told": sys.stdin.readline()})
"""


def test_time_is_measured_once_whoever_watches_has_stopped(tmp_path):
    """Else the first of those steps, which keep more alive, would be in the device's peak."""
    (tmp_path / "waiting.py").write_text(WAITING)
    process = WorkerProcess({"PYTHONPATH": str(tmp_path)}, "waiting")
    heard = []
    result = process.ask({}, 60.0, heard.append)
    process.close()
    assert heard == [TIMING]
    assert result["values"] == {"told": "{}\n"}


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="processes cannot be stopped here")
def test_a_process_that_was_stopped_goes_on_or_ends():
    """A stopped process must neither answer nor outlive its runner."""
    process = WorkerProcess({})
    process.hello()
    process.pause()
    state = Path(f"/proc/{process.pid}/stat")
    if state.exists():
        while state.read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.01)
    process.resume()
    process.pause()
    process.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        ({"status": "oom", "reason": "OutOfMemoryError: 9 GiB"}, "oom", "OutOfMemoryError: 9 GiB"),
        (WorkerDied("the worker process was killed by signal 9"), "crashed", "killed by signal 9"),
    ],
)
def test_a_measurement_that_fails_is_a_row_and_the_next_case_runs(worker, answer, status, reason):
    with Runner("cuda") as runner:
        worker.answers["peaks"] = answer
        failed = run_one(runner, preset())
        worker.answers["peaks"] = PEAKS
        after = run_one(runner, preset())
    assert failed.status == status
    assert reason in failed.reason
    assert failed.peak_allocated_bytes is failed.ledger is None
    assert after.status == "ok"
    assert all(one.closed for one in worker.all)


@pytest.mark.parametrize("answer", [{"status": "oom", "reason": "9 GiB"}, WorkerDied("9 GiB")])
def test_headline_numbers_survive_without_their_ledger(worker, answer):
    worker.answers["ledger"] = answer
    with Runner("cuda") as runner:
        record = run_one(runner, preset())
    assert (record.status, record.peak_allocated_bytes, record.ledger) == ("ok", 100 * MIB, None)
    assert any("no ledger" in note and "9 GiB" in note for note in record.notes)


@pytest.mark.parametrize(("mode", "peak"), [("train", 91 * MIB), ("forward-backward", 95 * MIB)])
def test_the_headline_is_steady_but_for_the_reports_protocol(worker, mode, peak):
    with Runner("predict") as runner:
        record = run_one(runner, preset(mode=mode))
    assert record.peak_allocated_bytes == peak
    assert (record.device_peak_bytes, record.device_peak_provenance) == (420 * MIB, "predicted")


@pytest.mark.parametrize("backend", ["predict", "cuda"])
def test_a_record_says_how_its_case_ran_and_what_the_host_held(worker, backend):
    with Runner(backend) as runner:
        trained = run_one(runner, preset("muse", update="in-backward", execution="graph", optimizer="sgd"))
        read = run_one(runner, preset("muse", mode="inference"))
    assert (trained.update, trained.execution, trained.host_bytes) == ("in-backward", "graph", {"checkpoints": 5})
    assert (read.update, read.execution) == (None, "eager")


@pytest.mark.parametrize("backend", ["predict", "cuda"])
def test_an_interruption_ends_the_process_that_was_at_work(worker, backend):
    """Its late answer would be taken for that of the next case."""

    def interrupt(told):
        if told.phase == "building" and told.case.model == "ultra":
            raise KeyboardInterrupt

    with Runner(backend, on_progress=interrupt) as runner:
        with pytest.raises(KeyboardInterrupt):
            run_one(runner, preset("ultra"))
        at_work = [one for one in worker.all if one.tasks]
        assert [one.closed for one in at_work] == [True]
        assert run_one(runner, preset()).status == "ok"
    assert at_work[0].tasks in (["predict"], ["peaks"])
    assert all(one.closed for one in worker.all)


@pytest.mark.parametrize(
    ("backend", "gpu", "unavailable", "chosen"),
    [
        ("auto", None, None, "cuda"),
        ("auto", None, "no CUDA device is visible", "predict"),
        ("auto", "rtx-3080", None, "predict"),
        ("predict", None, None, "predict"),
        ("cuda", None, None, "cuda"),
    ],
)
def test_auto_measures_where_it_can_unless_a_gpu_is_named(worker, monkeypatch, backend, gpu, unavailable, chosen):
    monkeypatch.setattr(worker, "unavailable", unavailable)
    with Runner(backend, gpu=gpu) as runner:
        assert runner.backend == chosen


def test_the_workspace_setting_reaches_every_process(worker):
    with Runner("cuda", workspace="off") as runner:
        run_one(runner, preset())
    off = {"CUBLAS_WORKSPACE_CONFIG": ":0:0", "CUBLASLT_WORKSPACE_SIZE": "0"}
    assert all(off.items() <= one.environment.items() for one in worker.all)


def test_without_explaining_a_measurement_takes_one_process_and_has_no_ledger(worker):
    """A calibration has a hundred cases, and reads their headline numbers alone."""
    with Runner("cuda", explain=False) as runner:
        record = run_one(runner, preset())
    assert (record.peak_allocated_bytes, record.ledger, record.notes) == (100 * MIB, None, ())
    assert [one.tasks for one in worker.all if one.tasks] == [["peaks"]]


def test_without_explaining_a_prediction_keeps_its_ledger_alone(worker):
    """The modules and moments of a hundred cases are megabytes that nobody reads."""
    with Runner("predict", explain=False) as runner:
        record = run_one(runner, preset())
    assert record.ledger.parameters == 60 * MIB
    assert record.modules == record.timeline == ()


@pytest.mark.parametrize(
    ("backend", "gpu", "hidden"), [("predict", None, True), ("auto", "h200", True), ("auto", None, False)]
)
def test_a_prediction_never_touches_the_gpu(worker, backend, gpu, hidden):
    """Its context would stand beside a measurement; and what it finds would depend on the machine."""
    with Runner(backend, gpu=gpu) as runner:
        run_one(runner, preset())
    assert {one.environment.get("CUDA_VISIBLE_DEVICES") == "" for one in worker.all} == {hidden}


def test_autocast_is_in_the_record(worker):
    with Runner("predict") as runner:
        assert run_one(runner, preset(autocast="bf16")).autocast == "bf16"


CAPPED = {
    "ran": True,
    "steps": 5,
    "cap_bytes": preset().limit_bytes - 780 * MIB,
    "context_bytes": 780 * MIB,
    "peak_reserved_bytes": 120 * MIB,
    "outside_bytes": 780 * MIB,
    "alloc_retries": 0,
    "stopped_by_cap": False,
}


def test_a_proof_is_a_process_of_its_own_told_what_the_context_takes(worker):
    worker.answers["prove"] = CAPPED
    with Runner("cuda", proves=True) as runner:
        record = run_one(runner, preset())
    assert (record.proof.ran, record.proof.steps, record.proof.cap_bytes) == (True, 5, CAPPED["cap_bytes"])
    (request,) = (request for one in worker.all for request in one.requests if request["task"] == "prove")
    assert request["context_bytes"] == record.context_bytes == 780 * MIB
    assert request["case"] == preset().to_json()
    assert max(len(one.tasks) for one in worker.all) == 1
    assert all(one.closed for one in worker.all)


def test_a_case_that_does_not_run_uncapped_is_proven_too(worker):
    """On a GPU that others use it may have run out for their sake."""
    worker.answers |= {"peaks": {"status": "oom", "reason": "9 GiB"}, "prove": {**CAPPED, "ran": False}}
    worker.answers["prove"]["stopped_by_cap"] = True
    with Runner("cuda", proves=True) as runner:
        assert run_one(runner, preset()).proof.ran is False


@pytest.mark.parametrize(
    "answer", [WorkerDied("killed by signal 9"), {"status": "crashed", "reason": "killed by signal 9"}]
)
def test_a_proof_that_breaks_costs_the_measurement_nothing(worker, answer):
    worker.answers["prove"] = answer
    with Runner("cuda", proves=True) as runner:
        record = run_one(runner, preset())
    assert (record.status, record.peak_allocated_bytes, record.proof) == ("ok", 100 * MIB, None)
    assert record.notes[-1] == "no proof: killed by signal 9"


def test_every_try_of_a_bisection_is_a_process_of_its_own(worker):
    """It reserved 120 MiB of which 100 were allocated; both tries in between run."""
    worker.answers["prove"] = CAPPED
    with Runner("cuda", bisects=True) as runner:
        record = run_one(runner, preset())
    caps = [one.requests[0]["case"]["budget_bytes"] // MIB - 780 for one in worker.all if one.tasks == ["prove"]]
    assert caps == [110]
    assert record.smallest_budget_bytes == (110 + 780) * MIB
    assert record.proof is None


def test_a_prediction_bisects_by_simulation(runner, monkeypatch):
    """In between what is allocated at once and what the allocator would reserve."""
    assert run_one(runner, preset(batch=64)).smallest_budget_bytes is None
    with monkeypatch.context() as patch:
        patch.setattr(runner, "_bisects", True)
        record = run_one(runner, preset(batch=64))
    assert record.context_source.startswith("estimated")
    assert record.peak_allocated_bytes <= record.smallest_budget_bytes - record.context_bytes
    assert record.smallest_budget_bytes <= record.device_peak_bytes
