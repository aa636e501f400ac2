"""Floors by hand, and that no peak, predicted or measured, is below its floor."""

import dataclasses
from pathlib import Path

import pytest

from muse_bench.analysis.floor import Bounded, floor_of
from muse_bench.cli.floor import case_of
from muse_bench.config import Case, Sizes
from muse_bench.footprint import Footprint
from muse_bench.models.presets import PRESETS
from muse_bench.predict.allocator import AllocatorConfig
from muse_bench.predict.gpus import find_gpu
from muse_bench.predict.trace import trace_case
from muse_bench.predict.weigh import weigh
from muse_bench.record import read_run_file
from muse_bench.timeline import profile

OTHER_RECORDS = ("kernels", "quality", "losses", "reliability")  # each with a file format of its own
REPORTS = Path(__file__).parents[3] / "reports" / "h200"
TOY = Sizes(vocab_size=61, d_model=32, n_layers=2, n_heads=4, seq_len=32)
MANY_WORDS = dataclasses.replace(TOY, vocab_size=700)
COUNTED = Footprint(
    parameters=250,
    weights_bytes=1_000,
    gradients_bytes=900,
    largest_gradient_bytes=300,
    largest_operand_bytes=200,
    optimizer_bytes=2_000,
    inputs_bytes=10,
    token_vector_bytes=8,
    token_logits_bytes=50,
    state_per_sequence_bytes=40,
)


def case(mode, **changes):
    return Case(model="ultra", config=None, mode=mode, **{"batch": 3, "seq": 16, "new_tokens": 4, **changes})


@pytest.mark.parametrize(
    ("asked", "changes", "total", "streamed"),
    [
        (case("train"), {}, 10 + 1_000 + 2_000 + 900, 10 + 200 + 2 * 16 * 8),
        (case("train", update="in-backward"), {}, 10 + 1_000 + 2_000 + 300, 10 + 200 + 2 * 16 * 8),
        (case("train", seq=200), {}, 10 + 1_000 + 2_000 + 2 * 200 * 8, 10 + 200 + 2 * 200 * 8),
        (case("forward-backward"), {}, 10 + 1_000 + 3 * 16 * 50 + 900, 10 + 200 + 3 * 16 * 50 + 2 * 16 * 8),
        (case("forward-backward", micro_batch=1), {}, 10 + 1_000 + 16 * 50 + 900, 10 + 200 + 16 * 50 + 2 * 16 * 8),
        (case("inference"), {}, 10 + 1_000 + 3 * 16 * 50, 10 + 200 + 3 * 16 * 50),
        (case("inference", logits="last", seq=400), {"token_logits_bytes": 1}, 10 + 1_000 + 40, 10 + 200 + 40),
        (case("inference", logits="last"), {"token_logits_bytes": 1, "state_per_sequence_bytes": None}, 1_138, 338),
        (case("decode"), {}, 10 + 1_000 + 3 * 40 + 3 * 50, 10 + 200 + 3 * 40 + 3 * 50),
    ],
    ids=str,
)
def test_floors_by_hand(asked, changes, total, streamed):
    """The parts of one instant add up; those of another do not come on top."""
    found = floor_of(asked, dataclasses.replace(COUNTED, **changes))
    assert (found.total_bytes, found.streamed_bytes) == (total, streamed)


def protocols_of_presets():
    protocols = ("train", "forward-backward", "inference", "inference last", "decode")
    return [(name, word) for name in PRESETS for word in protocols if (name, word) != ("encoder", "decode")]


def test_what_a_floor_holds_of_each_category(make_record):
    own = floor_of(case("decode"), COUNTED)
    row = Bounded(make_record(status="ok", peak_allocated_bytes=4 * own.total_bytes), own)
    assert own.of("activations") == 3 * 40 + 3 * 50
    assert own.of("gradients") == 0
    assert row.ratio == 4
    assert Bounded(make_record(status="oom", peak_allocated_bytes=None), own).ratio is None


@pytest.mark.parametrize(("sizes", "batch"), [(TOY, 3), (MANY_WORDS, 1)], ids=["61 words", "700 words"])
@pytest.mark.parametrize(("name", "protocol"), protocols_of_presets())
def test_no_prediction_is_below_its_floor(name, protocol, sizes, batch):
    """A bound that a run beats is none: it counts what is not needed at once, or not needed."""
    mode, _, logits = protocol.partition(" ")
    preset = PRESETS[name]
    asked = Case(
        model=name,
        config=preset.configure(sizes),
        mode=mode,
        dtype=preset.dtype,
        batch=batch,
        seq=28,
        vocab_size=sizes.vocab_size,
        optimizer=preset.optimizer,
        update=preset.update if mode == "train" else "after",
        logits=logits or "all",
        new_tokens=4,
        micro_batch=preset.micro_batch,
    )
    trace, _ = trace_case(asked, find_gpu("h200"))
    found = profile(trace, first_steady_step=asked.first_steady_step, config=AllocatorConfig())
    counted = weigh(asked)
    own = floor_of(asked, counted)
    if asked.config.weights == "device":
        assert counted.weights_bytes <= found.ledger.parameters + found.ledger.buffers
        assert counted.optimizer_bytes <= found.ledger.optimizer_state
        assert 0 < own.streamed_bytes <= own.total_bytes
    else:
        assert 0 < own.total_bytes <= own.streamed_bytes
    assert own.total_bytes <= found.steady_peak_allocated_bytes - found.ledger.workspace


def measured():
    paths = [path for path in sorted(REPORTS.glob("*.json")) if not path.stem.startswith(OTHER_RECORDS)]
    found = [(path.stem, record) for path in paths for record in read_run_file(path).records]
    return [
        pytest.param(record, id=f"{stem}-{record.model}-{record.mode}-{record.batch}x{record.seq}")
        for stem, record in found
        if record.model in PRESETS and (record.status, record.provenance, record.sharding) == ("ok", "measured", None)
    ]


@pytest.mark.parametrize("record", measured())
def test_no_measurement_is_below_its_floor(record):
    asked = case_of(record)
    counted = weigh(asked)
    if counted.parameters != record.parameters:
        pytest.skip("recorded of another model than this version builds")
    ledger = record.ledger
    workspace = 0 if ledger is None else ledger.workspace
    assert floor_of(asked, counted).total_bytes <= record.peak_allocated_bytes - workspace
