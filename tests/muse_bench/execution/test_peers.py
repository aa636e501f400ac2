"""The worker of the other predictors: whatever becomes of it, the record stays and says so."""

import pytest

from muse_bench.calibration.cases import DEVELOPMENT, build_case
from muse_bench.execution import peers as peers_module
from muse_bench.execution.blank import blank_record
from muse_bench.execution.peers import PeerWorker
from muse_bench.execution.process import WorkerDied

CASE = build_case(DEVELOPMENT[0])
RECORD = blank_record(CASE, "predicted", "NVIDIA H200")
NOTHING = {"mem-tracker": None, "accelerate": None}


class InventedWorker:
    """Answers with `answer`, or ends with it."""

    answer: object = None
    all: list = []  # noqa: RUF012

    def __init__(self, environment):
        self.closed = False
        self.all.append(self)

    def ask(self, request, timeout_seconds, say):
        assert request["task"] == "peers"
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def close(self):
        self.closed = True


@pytest.fixture
def worker(monkeypatch):
    monkeypatch.setattr(peers_module, "WorkerProcess", InventedWorker)
    monkeypatch.setattr(InventedWorker, "all", [])
    return InventedWorker


def ask(asker):
    return asker.ask(RECORD, CASE, lambda _: None)


def test_answers_and_their_reasons_are_in_the_record(worker):
    values = {"peers": {"mem-tracker": 7, "accelerate": None}, "notes": ["accelerate: no answer: not installed"]}
    worker.answer = {"kind": "result", "status": "ok", "reason": None, "values": values}
    with PeerWorker() as asker:
        record = ask(asker)
    assert record.peers == {"mem-tracker": 7, "accelerate": None}
    assert record.notes == ("accelerate: no answer: not installed",)
    assert [one.closed for one in worker.all] == [True]


def test_a_worker_that_dies_is_no_answer_of_any_and_another_takes_its_place(worker):
    worker.answer = WorkerDied("timed out after 5 s")
    with PeerWorker(5) as asker:
        record = ask(asker)
        ask(asker)
    assert record.peers == NOTHING
    assert record.notes[0] == "mem-tracker: no answer: timed out after 5 s"
    assert [one.closed for one in worker.all] == [True, True]


def test_a_case_that_cannot_be_built_is_no_answer_of_any(worker):
    worker.answer = {"kind": "result", "status": "usage", "reason": "no transformers", "values": {}}
    with PeerWorker() as asker:
        assert ask(asker).peers == NOTHING
