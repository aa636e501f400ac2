"""Training a model of one layer: it learns, it repeats itself, and it goes on where it was interrupted."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from muse_bench.errors import UsageError
from muse_bench.quality import training
from muse_bench.quality.evaluation import evaluate, verdict
from muse_bench.quality.step import CannotCapture, LossScale
from muse_bench.quality.training import train
from muse_bench.quality.trial import Trial
from muse_bench.workload import build_workload

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[3]
KILLED = """
import json, os, signal, sys, torch
from muse_bench.quality.training import train
from muse_bench.quality.trial import Trial

def say(text):
    if "50%" in text:
        os.kill(os.getpid(), signal.SIGKILL)

train(Trial.from_json(json.load(open(sys.argv[1]))), torch.device("cpu"), say)
"""


def run(trial, say=lambda _: None):
    return train(trial, CPU, say)


@pytest.mark.parametrize("model", ["baseline", "tuned", "ultra"])
def test_the_loss_falls(make_trial, model):
    found = run(make_trial(model, lr=1e-2))
    losses = [loss for _, loss in found["curve"]]
    assert found["status"] == "ok"
    assert losses[-1] < losses[0] - 0.3
    assert found["validation_loss"] < math.log(300) - 0.3
    assert found["perplexity"] == pytest.approx(math.exp(found["validation_loss"]))
    assert found["tokens_per_second"] > 0
    assert found["peak_allocated_bytes"] is None  # nothing counts bytes on a CPU
    assert (found["skipped_steps"] is not None) == (model == "ultra")
    assert [tokens for tokens, _ in found["curve"]] == list(range(64, 3_841, 64))


def test_the_same_seed_gives_the_same_curve_and_another_another(make_trial):
    first, second, other = (run(make_trial(seed=seed))["curve"] for seed in (3, 3, 4))
    assert first == second != other


@pytest.mark.parametrize(
    ("model", "changes"),
    [("baseline", {}), ("tuned", {}), ("ultimate", {}), ("baseline", {"case": {"optimizer": "adamw-8bit"}})],
)
def test_an_interrupted_run_ends_as_if_it_had_not_been(make_trial, tmp_path, model, changes):
    whole = run(make_trial(model, checkpoint=None, **changes))
    trial = make_trial(model, checkpoint_seconds=0.0, **changes)

    def interrupt(text):
        if "50%" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(trial, interrupt)
    assert (tmp_path / "unfinished" / "one.pt").exists()
    said = []
    resumed = run(trial, said.append)
    assert not any("49%" in text for text in said)  # it does not begin anew
    for name in ("curve", "validation_loss", "skipped_steps"):
        assert resumed[name] == whole[name]
    assert list((tmp_path / "unfinished").iterdir()) == []


def test_a_run_whose_process_was_killed_ends_as_if_it_had_not_been(make_trial, tmp_path):
    trial = make_trial(checkpoint_seconds=0.0)
    (tmp_path / "trial.json").write_text(json.dumps(trial.to_json()))
    process = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "trial.json")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "kernels")))},
        timeout=120,
    )
    assert process.returncode == -signal.SIGKILL
    assert Path(trial.checkpoint).exists()
    assert run(trial)["curve"] == run(make_trial(checkpoint=None))["curve"]


def test_half_a_checkpoint_is_none(make_trial, tmp_path):
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "one.pt").write_bytes(b"PK\x03\x04 half a file")
    assert run(make_trial())["status"] == "ok"


def test_a_loss_that_is_not_finite_ends_the_run_and_is_reported(make_trial):
    found = run(make_trial(lr=1e30))
    assert found["status"] == "diverged"
    assert "the loss was not finite after" in found["reason"]
    assert "validation_loss" not in found
    assert all(math.isfinite(loss) for _, loss in found["curve"])


def test_a_loss_above_the_uniform_guess_is_divergence():
    assert verdict(5.0, 300) is None
    assert "above 5.704, that of a uniform guess" in verdict(5.8, 300)
    assert verdict(None, 300) == "the validation loss is not finite"


def test_float16_gradients_that_overflow_at_any_scale_are_divergence(make_trial, monkeypatch):
    monkeypatch.setattr(training, "SMALLEST_SCALE", 2.0**20)
    found = run(make_trial("ultra"))
    assert found["status"] == "diverged"
    assert found["reason"].startswith("gradients overflow float16 at any loss scale")


def test_the_loss_scale_halves_at_an_overflow_and_recovers():
    scale = LossScale(CPU)
    scale.follow(False)
    assert (float(scale.factor), scale.skipped) == (2.0**15, 1)
    for _ in range(2_000):
        scale.follow(True)
    assert float(scale.factor) == scale.value == 2.0**16
    for _ in range(2_000):
        scale.follow(True)
    assert scale.value == 2.0**16


def test_gradients_are_clipped_alike_with_micro_batches(make_trial):
    whole = run(make_trial(case={"micro_batch": None}))
    parts = run(make_trial(case={"micro_batch": 1}))
    assert parts["validation_loss"] == pytest.approx(whole["validation_loss"], rel=1e-3)


def test_bits_per_byte_by_hand(make_trial):
    trial = make_trial()
    work = build_workload(trial.case, CPU)
    for parameter in work.model.parameters():
        torch.nn.init.zeros_(parameter)  # a uniform guess
    found = evaluate(work, trial, CPU)
    ids = torch.from_file(trial.validation, size=trial.validation_tokens + 1, dtype=torch.int16).tolist()
    lengths = json.loads(Path(trial.lengths).read_text())
    size = sum(lengths[token] for token in ids[1:])
    assert found["validation_tokens"] == trial.validation_tokens
    assert found["validation_loss"] == pytest.approx(math.log(300), rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx(trial.validation_tokens * math.log2(300) / size, rel=1e-6)


def test_the_rate_warms_up_and_falls_to_a_tenth(make_trial):
    trial = make_trial(lr=1.0, tokens=100 * 64)
    assert trial.steps == 100
    assert [trial.rate(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert trial.rate(5) == pytest.approx(1.0)
    assert trial.rate(52) == pytest.approx(0.55, abs=0.02)
    assert trial.rate(99) == pytest.approx(0.1, abs=0.01)


def test_a_trial_survives_json_and_its_key_knows_no_path(make_trial):
    trial = make_trial("ultra")
    assert Trial.from_json(trial.to_json()) == trial
    assert make_trial("ultra", train="elsewhere").key == trial.key
    assert make_trial("ultra", lr=1e-4).key != trial.key


def test_a_model_that_looks_ahead_is_refused(make_trial, tmp_path):
    lines = [
        "from torch import nn",
        "class Ahead(nn.Module):",
        "    def __init__(self):",
        "        super().__init__()",
        "        self.table = nn.Embedding(300, 300)",
        "    def forward(self, ids):",
        "        return self.table(ids).cumsum(1)SUFFIX",
    ]
    for name, suffix in (("ahead", ".flip(1)"), ("causal", "")):
        (tmp_path / f"{name}.py").write_text("\n".join(lines).replace("SUFFIX", suffix))
    cases = [{"config": None, "model": f"{tmp_path}/{name}.py:Ahead"} for name in ("ahead", "causal")]
    with pytest.raises(UsageError, match="is not causal"):
        run(make_trial(case=cases[0]))
    assert run(make_trial(case=cases[1]))["status"] in ("ok", "diverged")


def test_an_optimizer_with_numbers_on_the_host_is_not_captured(make_trial):
    with pytest.raises(CannotCapture, match="AdamW8bit keeps numbers on the host"):
        run(make_trial(graphs=True, case={"optimizer": "adamw-8bit"}))
