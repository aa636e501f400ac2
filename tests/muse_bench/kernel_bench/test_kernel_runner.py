"""The runner, over workers that are invented."""

import dataclasses
from types import SimpleNamespace

import pytest

from muse_bench.errors import MuseBenchError, UsageError
from muse_bench.execution.process import WorkerDied
from muse_bench.kernel_bench import benchmarks, runner
from muse_bench.kernel_bench.runner import KernelRunner, Planned

NORM = Planned("rms_norm", benchmarks()["rms_norm"], 0, tiny=True)
SCAN = Planned("diagonal_scan", benchmarks()["diagonal_scan"], 0, tiny=True)
FIGURES = {"forward_seconds": 1e-5, "forward_backward_seconds": 3e-5, "peak_bytes": 100, "written_bytes": 60}


class InventedWorker:
    """`found` says what a contender gives: figures, a result with a status, or an exception."""

    def __init__(self, lab, variables, module):
        self.lab, self.asked, self.closed, self.number = lab, [], False, len(lab.workers)
        lab.workers.append(self)

    def hello(self):
        return {"environment": {"muse_bench": "0.1.0", "torch": "2.11.0"}, "cuda_unavailable": self.lab.unavailable}

    def ask(self, request, timeout_seconds, say):
        say("working")
        found = self.lab.found.get(request.get("contender") or request["task"], FIGURES)
        self.asked.append(request.get("contender") or request["task"])
        if isinstance(found, Exception):
            raise found
        return {
            "kind": "result",
            "status": "ok",
            "reason": None,
            "values": dict(found),
            **self.lab.results.get(request.get("contender"), {}),
        }

    def close(self):
        self.closed = True


@pytest.fixture
def lab(monkeypatch, rates):
    found = {
        "rates": {
            "rates": dataclasses.asdict(rates),
            "gpu": {"gpu": "NVIDIA H200", "gpu_total_bytes": 1 << 37, "compute_capability": "9.0"},
        }
    }
    made = SimpleNamespace(workers=[], unavailable=None, results={}, found=found)
    monkeypatch.setattr(runner, "WorkerProcess", lambda *arguments: InventedWorker(made, *arguments))
    monkeypatch.setattr(runner, "driver_version", lambda: "580.0")
    return made


def run(*plan, **options):
    with KernelRunner(**options) as started:
        return list(started.run(plan))


def test_the_rows_grow_one_by_one_and_ours_gets_its_goals(lab):
    states = run(NORM)
    assert [len(rows) for rows in states] == [1, 2, 3, 4, 4]
    last = states[-1]
    assert [row.contender for row in last] == ["muse_kernels", "eager", "torch.compile", "Liger"]
    assert [goal.met for goal in last[0].goals] == [True] * 4
    assert all(row.status == "ok" and row.forward_limit_seconds for row in last)


def test_every_kernel_has_a_process_of_its_own_and_all_end(lab):
    run(NORM, SCAN)
    first, second = (worker for worker in lab.workers if worker.asked)
    assert (first.asked[0], first.asked[1:]) == ("rates", ["muse_kernels", "eager", "torch.compile", "Liger"])
    assert "accelerated-scan" in second.asked
    assert all(worker.closed for worker in lab.workers)


def test_what_died_takes_nothing_with_it(lab):
    lab.found["eager"] = WorkerDied("the worker process was killed by signal 11")
    *_, rows = run(NORM)
    assert [row.status for row in rows] == ["ok", "crashed", "ok", "ok"]
    assert rows[1].reason == "the worker process was killed by signal 11"
    before, after = (worker for worker in lab.workers if worker.asked)
    assert (before.asked, after.asked) == (["rates", "muse_kernels", "eager"], ["torch.compile", "Liger"])


def test_a_failure_on_the_device_ends_its_process(lab):
    """After an illegal access nothing runs there any more."""
    lab.results["eager"] = {"status": "crashed", "reason": "AcceleratorError: an illegal memory access"}
    *_, rows = run(NORM)
    assert [row.status for row in rows] == ["ok", "crashed", "ok", "ok"]
    assert len([worker for worker in lab.workers if worker.asked]) == 2


def test_what_is_missing_or_too_large_stays_in_its_row(lab):
    lab.found["Liger"] = {"status": "missing", "reason": "ModuleNotFoundError: No module named 'liger_kernel'"}
    lab.results["eager"] = {"status": "oom", "reason": "out of memory"}
    *_, rows = run(NORM)
    assert [row.status for row in rows] == ["ok", "oom", "ok", "missing"]
    assert len([worker for worker in lab.workers if worker.asked]) == 1
    assert [goal.met for goal in rows[0].goals] == [None, None, True, True]


def test_a_pass_that_worked_counts_where_the_other_did_not(lab):
    lab.found["eager"] = {"forward_seconds": 5e-5, "status": "crashed", "reason": "backward: RuntimeError: no"}
    *_, rows = run(NORM)
    assert (rows[1].forward_seconds, rows[1].forward_backward_seconds, rows[1].status) == (5e-5, None, "crashed")
    assert [goal.met for goal in rows[0].goals][:2] == [True, None]


def test_slow_peers_run_when_they_are_asked_for(lab):
    *_, rows = run(SCAN)
    (warp,) = (row for row in rows if row.contender == "accelerated-scan warp")
    assert warp.status == "skipped"
    assert "--slow" in warp.reason
    *_, rows = run(SCAN, slow=True)
    assert all(row.status == "ok" for row in rows)


def test_without_a_gpu_nothing_runs(lab):
    lab.unavailable = "no CUDA device is visible"
    with pytest.raises(UsageError, match=r"no CUDA device is visible: `muse-bench kernels --from FILE`"):
        run(NORM)
    assert all(worker.closed for worker in lab.workers)


def test_rates_that_cannot_be_had_end_the_run(lab):
    lab.found["rates"] = WorkerDied("timed out after 9 s")
    with pytest.raises(MuseBenchError, match="timed out after 9 s"):
        run(NORM)
    assert all(worker.closed for worker in lab.workers)


def test_the_environment_names_the_card_and_cases_are_counted(lab):
    finished, said = [], []
    with KernelRunner(say=said.append, case_finished=lambda: finished.append(1)) as started:
        assert (started.environment.gpu, started.environment.driver) == ("NVIDIA H200", "580.0")
        list(started.run([NORM, SCAN]))
    assert len(finished) == 2
    assert "rms_norm, 6 x 16 bf16: eager, working" in said
