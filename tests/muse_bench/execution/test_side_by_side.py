"""Cases on several GPUs at once, with runners whose work is invented."""

import threading

import pytest

from muse_bench.config import Case
from muse_bench.errors import UsageError
from muse_bench.execution.blank import blank_record
from muse_bench.execution.process import WorkerDied
from muse_bench.execution.runner import Runner
from muse_bench.execution.side_by_side import SideBySide
from muse_bench.record import Environment

PATIENCE_SECONDS = 30.0


class InventedRunner:
    """Does what `work` does with a case; `stop` ends one that waits."""

    backend = "cuda"

    def __init__(self, device, work, log):
        self.device, self.work, self.log = device, work, log
        self.environment = Environment(muse_bench="0.1.0")
        self.stopped = threading.Event()

    def start(self):
        self.log.append((self.device, "started"))

    def __enter__(self):
        self.log.append((self.device, "entered"))
        return self

    def __exit__(self, *_):
        self.log.append((self.device, "left"))

    def stop(self):
        self.stopped.set()

    def run(self, cases):
        (case,) = cases
        self.work(self, case)
        self.environment = Environment(muse_bench="0.1.0", gpu_total_bytes=1 << 37)
        yield blank_record(case, "measured", "NVIDIA H200")


def cases(count):
    return [Case(model=f"mine.py:{number}", config=None) for number in range(count)]


@pytest.fixture
def crew():
    """Two runners that do this."""

    def make(work):
        log = []
        return SideBySide([InventedRunner(name, work, log) for name in ("GPU-0", "GPU-1")]), log

    return make


def test_two_cases_run_at_once_and_come_as_they_finish(crew):
    second_is_done = threading.Event()
    both_run = threading.Barrier(2, timeout=PATIENCE_SECONDS)

    def work(_, case):
        if case.model in ("mine.py:0", "mine.py:1"):
            both_run.wait()
        if case.model == "mine.py:0":
            assert second_is_done.wait(PATIENCE_SECONDS)

    together, log = crew(work)
    with together:
        assert log[:2] == [("GPU-0", "started"), ("GPU-1", "started")]  # before either is waited for
        places = []
        for place, record in together.run(cases(5)):
            assert record.model == f"mine.py:{place}"
            assert record.notes == ("timed beside cases on 1 other GPU: the host is shared",)
            places.append(place)
            if place == 4:  # which the other GPU has come to meanwhile
                second_is_done.set()
        assert together.environment.gpu_total_bytes == 1 << 37
    assert sorted(places) == [0, 1, 2, 3, 4]
    assert places[-1] == 0
    assert [what for _, what in log].count("left") == 2


def test_a_mistake_of_the_user_ends_the_others(crew):
    def work(runner, case):
        if case.model == "mine.py:0":
            raise UsageError("no weights here")
        assert runner.stopped.wait(PATIENCE_SECONDS)

    together, log = crew(work)
    with pytest.raises(UsageError, match="no weights here"), together:
        list(together.run(cases(4)))
    assert [what for _, what in log].count("left") == 2


def test_an_interruption_ends_what_runs(crew):
    def work(runner, case):
        if case.model != "mine.py:0":
            assert runner.stopped.wait(PATIENCE_SECONDS)

    def interrupted():
        together, _ = crew(work)
        with together:
            next(together.run(cases(3)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


def test_one_that_does_not_start_leaves_none_behind(crew):
    together, log = crew(lambda *_: None)
    second = together._runners[1]

    def refuse(self):
        raise UsageError("NVIDIA H200 is measured on by process 7")

    second.__class__ = type("Busy", (InventedRunner,), {"__enter__": refuse})
    with pytest.raises(UsageError, match="process 7"), together:
        pytest.fail("it started")
    assert log[-1] == ("GPU-0", "left")


def test_a_real_runner_that_is_stopped_ends_its_case_and_runs_no_other(tmp_path):
    (tmp_path / "slow.py").write_text("import time\ndef build():\n    time.sleep(600)\n")
    case = Case(model=f"{tmp_path}/slow.py:build", config=None, seq=12, vocab_size=61, gpu="h200")
    begun, ended = threading.Event(), []
    with Runner("predict") as runner:

        def ask():
            try:
                runner._ask_fresh("predict", case, lambda _: begun.set(), None)
            except WorkerDied as error:
                ended.append(str(error))

        thread = threading.Thread(target=ask)
        thread.start()
        assert begun.wait(PATIENCE_SECONDS)
        runner.stop()
        thread.join(PATIENCE_SECONDS)
        assert ended == ["the worker process was killed by signal 9"]
        with pytest.raises(WorkerDied, match="it was stopped"):
            runner._ask_fresh("predict", case, lambda _: None, None)
