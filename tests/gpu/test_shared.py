"""On a real GPU: modes that share one model, filled once, each under the cap."""

import dataclasses

import pytest

from muse_bench.config import Case, Mode, Sizes
from muse_bench.execution.runner import Runner
from muse_bench.models.presets import PRESETS
from muse_bench.record import Record

pytestmark = pytest.mark.gpu
SIZES = Sizes(vocab_size=5_000, d_model=768, n_layers=6, n_heads=6, seq_len=256)
PRESET = PRESETS["streamed"]


def case(mode: Mode) -> Case:
    return Case(
        model="streamed",
        config=PRESET.configure(SIZES),
        mode=mode,
        dtype=PRESET.dtype,
        seq=256,
        vocab_size=5_000,
        optimizer=PRESET.optimizer,
        update=PRESET.update if mode == "train" else "after",
        new_tokens=4,
    )


def run(*modes: Mode) -> list[Record]:
    with Runner("cuda", caps=True) as runner:
        return list(runner.run([case(mode) for mode in modes]))


def test_modes_that_share_a_model_take_what_each_takes_alone() -> None:
    """What one mode leaves behind, slots, a cache or buffers, would be in the next one's peak."""
    together = run("inference", "decode", "train")
    for record in together:
        (alone,) = run(record.mode)  # type: ignore[arg-type]
        assert record.status == "ok"
        assert record.proof is not None
        assert record.proof.ran
        assert record.peak_allocated_bytes == pytest.approx(alone.peak_allocated_bytes, rel=0.02)
        assert record.peak_reserved_bytes == pytest.approx(alone.peak_reserved_bytes, rel=0.2)
        assert record.link_seconds is None  # pages of two megabytes do not show the link's rate


def test_a_cap_below_the_model_says_what_would_do() -> None:
    small = dataclasses.replace(case("train"), budget_bytes=640 << 20)
    with Runner("cuda", caps=True) as runner:
        (record,) = runner.run([small])
    assert record.status == "oom"
    assert any("give --budget" in note for note in record.notes)
