"""Which cases belong together, what changed in them, and which two runs are not alike."""

import dataclasses

import pytest

from muse_bench.analysis.difference import Change, case_name, foreign, match, match_altered, places
from muse_bench.config import ModelConfig
from muse_bench.errors import UsageError
from muse_bench.ledger import Ledger, ModuleRow
from muse_bench.record import Environment, RunFile

MIB = 1 << 20
CONFIG = dataclasses.asdict(ModelConfig(vocab_size=61, d_model=32, n_layers=2, n_heads=4, max_seq_len=16))


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "inference"},
        {"dtype": "bf16"},
        {"batch": 2},
        {"seq": 7},
        {"optimizer": "sgd"},
        {"logits": "last"},
        {"micro_batch": 1},
        {"new_tokens": 9},
        {"workspace_setting": "off"},
        {"autocast": "bf16"},
        {"update": "in-backward"},
        {"execution": "graph"},
        {"config": {**CONFIG, "d_model": 64}},
    ],
)
def test_another_setting_is_another_case(make_record, changes):
    """A gate that joined them would compare a cheap case with a dear one, and pass."""
    old, new = make_record(config=CONFIG), make_record(**{"config": CONFIG, **changes})
    matched = match([old], [new])
    assert (matched.pairs, matched.gone, matched.new) == ((), (old,), (new,))


def test_the_gpu_and_the_seed_do_not_part_a_case(make_record):
    old, new = make_record(), make_record(gpu="NVIDIA H200", seed=3)
    assert [(pair.before, pair.after) for pair in match([old], [new]).pairs] == [(old, new)]


def test_a_config_of_before_a_part_was_there_has_its_default(make_record):
    """Else every baseline would be of no use after a new field of ModelConfig."""
    without = {name: value for name, value in CONFIG.items() if name != "prefill_chunk"}
    assert match([make_record(config=without)], [make_record(config=CONFIG)]).pairs


def test_a_case_that_is_there_twice_is_refused(make_record):
    """Else which one is compared would be a matter of order."""
    with pytest.raises(UsageError, match=r"'baseline' .*twice"):
        match([make_record(), make_record(peak_allocated_bytes=1)], [])


def test_a_preset_that_was_changed_is_joined_with_what_it_became(make_record):
    old, new = (
        make_record(config=CONFIG),
        make_record(config={**CONFIG, "ffn": "low-rank", "ffn_rank": 8}, dtype="bf16"),
    )
    (pair,) = match_altered(match([old], [new])).pairs
    assert set(pair.altered) == {"dtype: fp32 -> bf16", "ffn: dense -> low-rank", "ffn_rank: none -> 8"}


@pytest.mark.parametrize("changes", [{"batch": 2}, {"mode": "inference"}, {"config": {**CONFIG, "n_layers": 3}}])
def test_what_was_asked_for_differently_is_never_joined(make_record, changes):
    """Another batch did not grow out of this one."""
    old, new = make_record(config=CONFIG), make_record(**{"config": CONFIG, **changes})
    assert match_altered(match([old], [new])).pairs == ()


def test_the_nearest_of_several_is_the_successor(make_record):
    old = make_record(config=CONFIG)
    far, near = (make_record(config={**CONFIG, "ffn_rank": 8, **more}) for more in ({"mixer_rank": 8}, {}))
    assert match_altered(match([old], [far, near])).pairs[0].after == near


def test_a_name_tells_what_sets_a_case_apart_and_no_more(make_record):
    records = [make_record(seq=512), make_record(seq=1024), make_record("ultra", dtype="fp16")]
    assert [case_name(one, records) for one in records] == ["baseline, seq 512", "baseline, seq 1024", "ultra"]


def _rows(**held):
    return tuple(
        ModuleRow(module=name.replace("_", "."), ledger=Ledger(gradients=size * MIB)) for name, size in held.items()
    )


def _places(make_record, before, after):
    (pair,) = match([make_record(modules=before)], [make_record(modules=after)]).pairs
    return [(one.module, one.what, one.before, one.after) for one in places(pair)]


def test_places_come_by_growth_with_equal_blocks_as_one(make_record):
    before = _rows(blocks_0_ffn=1, blocks_1_ffn=1, head=5, embedding=2)
    after = _rows(blocks_0_ffn=2, blocks_1_ffn=2, head=1, embedding=2, extra=4)
    assert _places(make_record, before, after) == [
        ("extra", "gradients", 0, 4 * MIB),
        ("blocks.0-1.ffn", "gradients", 2 * MIB, 4 * MIB),
        ("head", "gradients", 5 * MIB, MIB),
    ]


def test_a_place_has_the_line_that_its_module_has_now(make_record):
    """The line of the older commit, where something else stands by now."""
    before, after = ((ModuleRow(module="head", ledger=Ledger(gradients=n), source=f"m.py:{n}"),) for n in (4, 8))
    (pair,) = match([make_record(modules=before)], [make_record(modules=after)]).pairs
    assert [one.source for one in places(pair)] == ["m.py:8"]


def test_without_a_table_of_modules_on_one_side_there_are_no_places(make_record):
    """Else every module of the other side would have grown from nothing."""
    assert _places(make_record, (), _rows(head=5)) == []


def test_bytes_of_parameters_are_not_taken_for_their_count(make_record):
    before, after = ((ModuleRow(module="head", ledger=Ledger(parameters=size)),) for size in (4, 8))
    assert _places(make_record, before, after) == [("head", "ledger_parameters", 4, 8)]


def test_what_is_not_known_did_not_grow():
    assert Change("peak", None, 5).growth is None
    assert Change("peak", 0, 5).share is None


def _foreign(make_record, changes, record=None, provenance="predicted"):
    """What parts two runs of one case that differ in the environment or the record."""
    old = make_record(provenance=provenance)
    new = dataclasses.replace(old, **(record or {}))
    environment = Environment(muse_bench="0.1.0", torch="2.13.0+cpu")
    before = RunFile(environment=environment, records=(old,))
    after = RunFile(environment=dataclasses.replace(environment, **changes), records=(new,))
    return foreign(before, after, match(before.records, after.records).pairs)


@pytest.mark.parametrize(
    ("name", "environment", "record"),
    [
        ("gpu", {}, {"gpu": "NVIDIA H200"}),
        ("torch", {"torch": "2.12.0+cpu"}, {}),
        ("allocator", {"allocator_config": "expandable_segments:True"}, {}),
        ("workspace", {"cublas_workspace_config": ":0:0"}, {}),
        ("provenance", {}, {"provenance": "measured"}),
    ],
)
def test_what_parts_two_runs(make_record, name, environment, record):
    assert list(_foreign(make_record, environment, record)) == [name]


def test_the_build_of_torch_parts_measurements_alone(make_record):
    """A baseline that a laptop with CUDA predicted must do on a runner without."""
    assert _foreign(make_record, {"torch": "2.13.0+cu130"}) == {}
    assert list(_foreign(make_record, {"torch": "2.13.0+cu130"}, provenance="measured")) == ["torch"]
