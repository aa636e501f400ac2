"""How much is repeated, and how often; and the worker as it measures, over a device that is invented."""

import time
from types import SimpleNamespace

import pytest
import torch

from muse_bench.kernel_bench import benchmarks, rates, timing, worker
from muse_bench.kernel_bench.benchmark import Contender
from muse_bench.kernel_bench.timing import LONGEST_BATCH, MOST_COPIES, batch_length, copies_needed

MIB = 1 << 20


@pytest.mark.parametrize(
    ("item", "copies"),
    [(200 * MIB, 1), (100 * MIB, 1), (99 * MIB, 2), (10 * MIB, 10), (1, MOST_COPIES), (0, MOST_COPIES)],
)
def test_copies_amount_to_twice_the_cache(item, copies):
    assert copies_needed(item, 50 * MIB) == copies


@pytest.mark.parametrize(("seconds", "calls"), [(1.0, 1), (2e-3, 1), (1e-3, 2), (1e-4, 20), (1e-9, LONGEST_BATCH)])
def test_a_batch_lasts_two_milliseconds(seconds, calls):
    assert batch_length(seconds) == calls


class InventedEvent:
    """The wall clock in the place of the device's."""

    def __init__(self, enable_timing):
        self.at = 0.0

    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return (end.at - self.at) * 1_000


@pytest.fixture
def device(monkeypatch):
    """torch, with a device that is the CPU; it remembers how often it was told to wait."""
    waits = []
    properties = SimpleNamespace(L2_cache_size=1_000, clock_rate=2_000_000)
    cuda = SimpleNamespace(
        current_device=lambda: 0,
        get_device_properties=lambda _: properties,
        Event=InventedEvent,
        synchronize=lambda: None,
        empty_cache=lambda: None,
        memory_allocated=lambda: 1_000,
        max_memory_allocated=lambda: 1_500,
        reset_peak_memory_stats=lambda: None,
        mem_get_info=lambda _: (1 << 16, 1 << 16),
        OutOfMemoryError=torch.cuda.OutOfMemoryError,
        _sleep=waits.append,
    )
    invented = SimpleNamespace(**{**vars(torch), "cuda": cuda, "device": lambda *_: torch.device("cpu")})
    for module in (timing, rates, worker):
        monkeypatch.setattr(module, "torch", invented)
    monkeypatch.setattr(rates, "MATRIX", 8)
    monkeypatch.setattr(worker, "gpu_facts", lambda: {"gpu": "invented"})
    monkeypatch.setattr(timing, "BATCH_SECONDS", 1e-5)
    return waits


def ask(contender="muse_kernels", **changes):
    request = {"task": "time", "kernel": "rms_norm", "case": 0, "tiny": True, "contender": contender}
    return worker.answer({**request, **changes}, lambda _: None)


def test_the_worker_measures_time_and_memory(device):
    found = ask()
    assert found["forward_seconds"] > 0
    assert found["forward_backward_wall_seconds"] > 0
    assert found["peak_bytes"] == 500
    assert found["written_bytes"] == (2 * 6 * 16 + 16) * 2  # the norm; the gradients of x and of the weight
    assert "status" not in found
    assert len(device) == 2 * timing.BATCHES  # the launches of every batch are hidden, of both passes


def test_the_worker_measures_the_rates_of_the_card(device):
    found = worker.answer({"task": "rates"}, lambda _: None)
    assert found["gpu"] == {"gpu": "invented"}
    assert all(value > 0 for value in found["rates"].values())


@pytest.fixture
def contender(monkeypatch):
    """Puts a contender of this making into the benchmark."""

    def put(load, **options):
        peer = Contender(name="theirs", load=load, **options)
        monkeypatch.setattr(type(benchmarks()["rms_norm"]), "contenders", lambda *_: (peer,))

    return put


def test_what_cannot_be_imported_is_missing(device, contender):
    def load(_):
        import no_such_module_as_this

        return no_such_module_as_this

    contender(load)
    found = ask("theirs")
    assert found == {
        "status": "missing",
        "reason": "ModuleNotFoundError: No module named 'no_such_module_as_this'",
    }


def test_a_backward_pass_that_fails_leaves_the_forward_pass(device, contender):
    contender(lambda _: lambda x, weight: x.detach() * weight.detach())
    found = ask("theirs")
    assert found["forward_seconds"] > 0
    assert found["status"] == "crashed"
    assert found["reason"].startswith("backward: ")


def test_a_backward_pass_without_room_says_so(device, contender):
    def run(x, weight):
        if torch.is_grad_enabled():
            raise torch.cuda.OutOfMemoryError("too much")
        return x

    contender(lambda _: run)
    assert ask("theirs")["status"] == "oom"
