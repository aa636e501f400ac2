"""A process for each rank: what becomes of all when one fails, and whose figures the record has.

The workers are invented.
"""

import threading

import pytest

from muse_bench.config import Case, Sizes
from muse_bench.errors import UsageError
from muse_bench.execution import ranks as ranks_module
from muse_bench.execution.process import WorkerDied
from muse_bench.execution.protocol import TIMING
from muse_bench.execution.ranks import check_gpus, measure_ranks
from muse_bench.measure.nvml import DeviceView
from muse_bench.models.presets import PRESETS

MIB = 1 << 20
SIZES = Sizes(vocab_size=61, d_model=32, n_layers=2, n_heads=4, seq_len=16)


def case(**changes):
    config = PRESETS["baseline"].configure(SIZES)
    return Case(model="baseline", config=config, seq=12, vocab_size=61, **{"sharding": "fsdp", "ranks": 3, **changes})


def peaks(peak, seconds=0.5, rate=48.0):
    return {
        "peaks": {
            "parameters": 7,
            "peak_allocated_bytes": peak * MIB,
            "cold_peak_allocated_bytes": (peak - 10) * MIB,
            "peak_reserved_bytes": (peak + 20) * MIB,
            "step_time_seconds": seconds,
            "tokens_per_second": rate,
        },
        "gpu": {"gpu": "NVIDIA H200", "gpu_total_bytes": 1 << 37, "compute_capability": "9.0"},
    }


def ledger(communication):
    held = {"parameters": 60 * MIB, "communication": communication * MIB}
    return {"ledger": held, "modules": [{"module": f"of {communication}", "ledger": held}], "timeline": []}


class FakeWorker:
    """A rank on a GPU; `answers` holds, by task and rank, values or how it fails; with None it waits for the others."""

    answers: dict = {}  # noqa: RUF012
    all: list = []  # noqa: RUF012

    def __init__(self, environment):
        self.environment, self.closed, self.pid = environment, False, 1_000 + len(self.all)
        self.ended = threading.Event()
        self.request = {}
        self.all.append(self)

    def ask(self, request, timeout_seconds, on_phase):
        self.request = request
        answer = self.answers[request["task"]][request["rank"]]
        if answer is None:  # NCCL waits until somebody ends it
            assert self.ended.wait(timeout=30), "nobody ended the rank that waited for another"
            raise WorkerDied("the worker process was killed by signal 9")
        if isinstance(answer, Exception):
            raise answer
        if request["task"] == "peaks":
            on_phase(TIMING)
        if "status" in answer:
            return {"kind": "result", "values": {}, **answer}
        return {"kind": "result", "status": "ok", "reason": None, "values": answer}

    def kill(self):
        self.ended.set()

    def close(self):
        self.kill()
        self.closed = True


class FakeSampler:
    """Stands in for NVML: each GPU holds 100 MiB more than the one before."""

    def __init__(self, index):
        self.index, self.pid = index, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def watch(self, pid):
        self.pid = pid

    def stop(self):
        assert self.pid == 1_000 + self.index
        return DeviceView(process_peak_bytes=(900 + 100 * self.index) * MIB, interval_seconds=0.005)


@pytest.fixture
def worker(monkeypatch):
    monkeypatch.setattr(ranks_module, "WorkerProcess", FakeWorker)
    monkeypatch.setattr(ranks_module, "NvmlSampler", FakeSampler)
    monkeypatch.setattr(FakeWorker, "all", [])
    three = [peaks(100, 0.5, 48.0), peaks(130, 0.4, 60.0), peaks(90, 0.8, 30.0)]
    monkeypatch.setattr(FakeWorker, "answers", {"peaks": three, "ledger": [ledger(1), ledger(2), ledger(3)]})
    return FakeWorker


def run(one=None, said=None):
    record, _ = measure_ranks(one or case(), {}, 5.0, (lambda _: None) if said is None else said.append, "NVIDIA H200")
    return record


def test_the_record_has_the_figures_of_the_rank_that_took_most(worker):
    record = run()
    assert record.peak_allocated_bytes == 130 * MIB
    assert record.cold_peak_allocated_bytes == 120 * MIB
    assert record.peak_reserved_bytes == 150 * MIB
    assert (record.device_peak_bytes, record.device_peak_provenance) == (1_000 * MIB, "sampled")
    assert record.context_bytes == 850 * MIB
    assert record.ledger.communication == 2 * MIB
    assert record.modules[0].module == "of 2"
    assert record.ledger.total == record.peak_allocated_bytes
    assert (record.sharding, record.ranks) == ("fsdp", 3)


def test_each_rank_has_a_row_whose_ledger_closes(worker):
    rows = run().of_ranks
    assert [row.rank for row in rows] == [0, 1, 2]
    assert [row.peak_allocated_bytes for row in rows] == [100 * MIB, 130 * MIB, 90 * MIB]
    assert [row.device_peak_bytes for row in rows] == [900 * MIB, 1_000 * MIB, 1_100 * MIB]
    assert [row.ledger.communication for row in rows] == [1 * MIB, 2 * MIB, 3 * MIB]
    assert all(row.ledger.total == row.peak_allocated_bytes for row in rows)


@pytest.mark.parametrize(("sharding", "rate"), [("fsdp", 90.0), ("replicas", 90.0), ("tensor", 30.0)])
def test_time_is_the_longest_and_the_rate_of_all(worker, sharding, rate):
    """The slowest rank sets the pace; in tensor parallelism all read the same tokens."""
    record = run(case(sharding=sharding))
    assert (record.step_time_seconds, record.tokens_per_second) == (0.8, rate)


def test_a_rate_that_nobody_knows_is_missing(worker):
    worker.answers["peaks"] = [peaks(100, rate=None) for _ in range(3)]
    assert run().tokens_per_second is None


@pytest.mark.parametrize(
    ("failed", "status", "reason"),
    [
        (WorkerDied("the worker process was killed by signal 9"), "crashed", "rank 1: the worker process was killed"),
        ({"status": "oom", "reason": "CUDA out of memory"}, "oom", "rank 1: CUDA out of memory"),
        ({"status": "crashed", "reason": "ValueError: no"}, "crashed", "rank 1: ValueError: no"),
    ],
)
def test_a_rank_that_fails_ends_the_others_which_wait_for_it(worker, failed, status, reason):
    worker.answers["peaks"] = [None, failed, None]
    record = run()
    assert record.status == status
    assert record.reason.startswith(reason)
    assert record.peak_allocated_bytes is record.ledger is None
    assert record.of_ranks == ()
    assert len(worker.all) == 3
    assert all(one.closed for one in worker.all)


def test_what_the_user_has_to_mend_is_raised(worker):
    worker.answers["peaks"] = [None, {"status": "usage", "reason": "offers no plan"}, None]
    with pytest.raises(UsageError, match="offers no plan"):
        run()
    assert all(one.closed for one in worker.all)


def test_without_a_ledger_the_peaks_stand(worker):
    worker.answers["ledger"] = [ledger(1), WorkerDied("timed out after 5 s"), None]
    record = run()
    assert (record.status, record.peak_allocated_bytes, record.ledger) == ("ok", 130 * MIB, None)
    assert "no ledger: rank 1: timed out after 5 s" in record.notes
    assert [row.peak_allocated_bytes for row in record.of_ranks] == [100 * MIB, 130 * MIB, 90 * MIB]
    assert [row.ledger for row in record.of_ranks] == [None] * 3


def test_ranks_meet_at_one_place_of_their_own(worker):
    """Not at torchrun's, which its own processes have taken; another one for the instrumented run's processes."""
    run()
    assert [one.request["rank"] for one in worker.all] == [0, 1, 2, 0, 1, 2]
    assert len({one.request["meeting_point"] for one in worker.all[:3]}) == 1
    assert all(one.environment["TORCHELASTIC_USE_AGENT_STORE"] is None for one in worker.all)


def test_only_the_first_rank_says_what_it_does(worker):
    said = []
    run(said=said)
    assert said == [TIMING]


def test_more_ranks_than_gpus_are_refused_before_any_process_starts():
    check_gpus(case(ranks=3), 3)
    with pytest.raises(UsageError, match="3 ranks need as many GPUs, and there are 2"):
        check_gpus(case(ranks=3), 2)
