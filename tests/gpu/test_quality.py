"""On a real GPU: a captured step trains as one that is not, and the peak leaves the text out."""

import array
import dataclasses
import json
import random

import pytest

from muse_bench.config import Case, Sizes
from muse_bench.models.presets import find_preset
from muse_bench.quality.trial import Trial

pytestmark = pytest.mark.gpu
VOCAB, SEQ, BATCH = 300, 64, 4


@pytest.fixture
def make_trial(tmp_path):
    draw = random.Random(0)
    ids = array.array("H", ((draw.randrange(3) + index) % VOCAB for index in range(20_000)))
    (tmp_path / "ids.bin").write_bytes(ids.tobytes())
    (tmp_path / "lengths.json").write_text(json.dumps([2] * VOCAB))

    def make(model: str, **changes: object) -> Trial:
        preset = find_preset(model)
        sizes = Sizes(vocab_size=VOCAB, d_model=64, n_layers=2, n_heads=4, seq_len=SEQ)
        case = Case(
            model=model,
            config=preset.configure(sizes),
            dtype=preset.dtype,
            optimizer=preset.optimizer,
            batch=BATCH,
            seq=SEQ,
            vocab_size=VOCAB,
        )
        trial = Trial(
            case=case,
            stage="final",
            lr=3e-3,
            tokens=40 * BATCH * SEQ,
            pool_tokens=16_000,
            validation_tokens=10 * SEQ,
            train=str(tmp_path / "ids.bin"),
            validation=str(tmp_path / "ids.bin"),
            lengths=str(tmp_path / "lengths.json"),
        )
        return dataclasses.replace(trial, **changes)

    return make


@pytest.mark.parametrize("model", ["baseline", "tuned", "ultra"])
def test_a_captured_step_trains_as_one_that_is_not(make_trial, model) -> None:
    import torch

    from muse_bench.quality.training import train

    device = torch.device("cuda")
    eager = train(make_trial(model), device, lambda _: None)
    captured = train(make_trial(model, graphs=True), device, lambda _: None)
    assert (eager["execution"], captured["execution"]) == ("eager", "graph")
    assert captured["validation_loss"] == pytest.approx(eager["validation_loss"], rel=0.02)
    assert captured["curve"][-1][1] < captured["curve"][0][1]


def test_the_peak_does_not_depend_on_how_much_text_there_is(make_trial) -> None:
    import torch

    from muse_bench.quality.training import train

    peaks = []
    for pool in (2_000, 20_000):
        torch.cuda.empty_cache()
        peaks.append(train(make_trial("baseline", pool_tokens=pool), torch.device("cuda"), lambda _: None))
    first, second = (found["peak_allocated_bytes"] for found in peaks)
    assert first == second > 0
