"""The runner over workers that are invented: sweeps, seeds, failures, and what need not be done again."""

import dataclasses

import pytest

from muse_bench.errors import UsageError
from muse_bench.execution.process import WorkerDied
from muse_bench.quality import runner as module
from muse_bench.quality.runner import Plan, QualityRunner, best_rate
from muse_bench.quality.trial import Trial


class Workers:
    """`losses` gives the validation loss of a rate, or an exception, or a whole result."""

    def __init__(self):
        self.asked, self.closed, self.losses = [], 0, {}

    def __call__(self, *_):
        return self

    def hello(self):
        return {"environment": {"muse_bench": "0.1.0", "torch": "2.13.0"}, "cuda_unavailable": "none"}

    def ask(self, request, timeout_seconds, say):
        trial = Trial.from_json(request["trial"])
        self.asked.append((trial.case.model, trial.stage, trial.lr, trial.case.seed, trial.tokens))
        say("working")
        found = self.losses.get(trial.lr, 3.0)
        if isinstance(found, BaseException):
            raise found
        if isinstance(found, dict):
            return found
        values = {"status": "ok", "validation_loss": found, "curve": [[64, 5.0]], "gpu": {"gpu": "H200"}}
        return {"status": "ok", "reason": None, "values": values}

    def close(self):
        self.closed += 1


@pytest.fixture
def workers(monkeypatch):
    found = Workers()
    monkeypatch.setattr(module, "WorkerProcess", found)
    return found


@pytest.fixture
def plan(make_trial):
    cases = tuple(make_trial(model).case for model in ("baseline", "tuned"))
    return Plan(cases=cases, lrs=(1e-3, 3e-3), seeds=(5, 6), tokens=1_000, sweep_tokens=130, validation_tokens=50)


def last(plan, files, tmp_path, **options):
    with QualityRunner(work=tmp_path, **options) as runner:
        *_, rows = runner.run(plan, files)
    return rows


def test_each_model_is_swept_alike_and_trained_at_its_best_rate(workers, plan, files, tmp_path):
    workers.losses = {1e-3: 4.0, 3e-3: 3.5}
    rows = last(plan, files, tmp_path)
    expected = [("sweep", 1e-3, 5, 128), ("sweep", 3e-3, 5, 128), ("final", 3e-3, 5, 960), ("final", 3e-3, 6, 960)]
    assert workers.asked == [(model, *one) for model in ("baseline", "tuned") for one in expected]
    assert len(rows) == plan.total == 8
    assert rows[0].curve == ((64, 5.0),)
    assert rows[0].gpu == "H200"
    assert rows[0].pool_tokens == 1_032


def test_one_rate_needs_no_sweep(workers, plan, files, tmp_path):
    rows = last(dataclasses.replace(plan, lrs=(1e-3,)), files, tmp_path)
    assert {row.stage for row in rows} == {"final"}


def test_what_has_finished_is_not_done_again(workers, plan, files, tmp_path):
    rows = last(plan, files, tmp_path)
    failed = dataclasses.replace(rows[-1], status="crashed")
    other = dataclasses.replace(rows[0], model="another")
    workers.asked.clear()
    again = last(plan, files, tmp_path, earlier=(other, *rows[:-1], failed))
    assert [model for model, *_ in workers.asked] == ["tuned"]
    assert again[0] == other
    assert {row.identity for row in again[1:]} == {row.identity for row in rows}
    assert all(row.status == "ok" for row in again)


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (WorkerDied("timed out after 9 s"), "crashed"),
        ({"status": "oom", "reason": "too much", "values": {}}, "oom"),
        ({"status": "ok", "values": {"status": "diverged", "reason": "not finite"}}, "diverged"),
    ],
)
def test_a_run_that_fails_is_a_row_and_the_others_go_on(workers, plan, files, tmp_path, found, status):
    workers.losses = {1e-3: found}
    rows = last(plan, files, tmp_path)
    assert [row.status for row in rows] == [status, "ok", "ok", "ok"] * 2
    assert rows[0].reason


def test_when_every_rate_fails_the_smallest_is_trained_and_told(workers, plan, files, tmp_path):
    diverged = {"status": "ok", "values": {"status": "diverged", "reason": "not finite"}}
    workers.losses = {1e-3: diverged, 3e-3: diverged}
    rows = last(plan, files, tmp_path)
    assert best_rate(rows[:2]) == 1e-3
    assert {row.status for row in rows} == {"diverged"}


def test_what_the_user_has_to_mend_ends_the_run(workers, plan, files, tmp_path):
    workers.losses = {1e-3: {"status": "usage", "reason": "is not causal", "values": {}}}
    with pytest.raises(UsageError, match="is not causal"):
        last(plan, files, tmp_path)
