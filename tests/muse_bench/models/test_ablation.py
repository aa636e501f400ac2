"""The way from one preset to another: every field changes in exactly one step, and every model on the way is one."""

import dataclasses
import itertools

import pytest
import torch

from muse_bench.config import Case, ModelConfig, Sizes
from muse_bench.errors import UsageError
from muse_bench.models.ablation import STEPS, route, techniques
from muse_bench.models.presets import PRESETS, find_preset
from muse_bench.models.variants import CASE_FIELDS, difference, find_model
from muse_bench.workload import build_workload

CAUSAL = [name for name in PRESETS if name not in ("encoder", "baseline")]
FIELDS = [field for step in STEPS for field in step.fields]


@pytest.mark.parametrize("target", CAUSAL)
def test_every_difference_belongs_to_exactly_one_step(target):
    """A field that no step names would change the model unseen, one in two steps would be counted at the first."""
    for field in difference(find_preset("baseline"), find_preset(target)):
        assert FIELDS.count(field) == 1, field


def test_steps_name_fields_that_there_are_once():
    assert len(set(FIELDS)) == len(FIELDS)
    assert set(FIELDS) <= {field.name for field in dataclasses.fields(ModelConfig)} | set(CASE_FIELDS)


@pytest.mark.parametrize("target", CAUSAL)
@pytest.mark.parametrize("sizes", [Sizes(), Sizes(vocab_size=10_000, d_model=512, n_layers=6, n_heads=8, seq_len=512)])
def test_every_model_on_the_way_can_be_built_and_has_one_technique_more(target, sizes):
    names = route("baseline", target)
    assert (names[0], names[-1]) == ("baseline", target)
    for before, after in itertools.pairwise(names):
        preset = find_model(after)
        case = Case(model=after, config=preset.configure(sizes), **{f: getattr(preset, f) for f in CASE_FIELDS})
        assert case.config is not None
        assert len(techniques(before, after)) == 1


@pytest.mark.parametrize("target", CAUSAL)
def test_every_model_on_the_way_runs(target):
    """An intermediate model whose parts do not work together would be a row that crashed."""
    sizes = Sizes(vocab_size=40, d_model=32, n_layers=3, n_heads=2, seq_len=8)
    for name in route("baseline", target):
        preset = find_model(name)
        own = {field: getattr(preset, field) for field in CASE_FIELDS}
        case = Case(model=name, config=preset.configure(sizes), batch=2, seq=8, vocab_size=40, **own)
        build_workload(case, torch.device("cpu")).step()


def test_steps_that_change_nothing_are_left_out():
    assert [techniques(*pair) for pair in itertools.pairwise(route("baseline", "tuned"))] == [
        ["dtype"],
        ["embedding and head"],
        ["fused loss"],
        ["checkpointing"],
        ["optimizer"],
    ]


def test_variants_are_ends_too():
    names = route("ultra+embedding_rank=8", "ultra+shared_norm=false")
    assert names == [
        "ultra+embedding_rank=8",
        "ultra+embedding_rank=8+shared_norm=false",
        "ultra+shared_norm=false",
    ]


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("ultra", "ultra", "nothing changes"),
        ("encoder", "ultra", "no step changes block, dropout"),
        ("baseline", "muse+dropout=0.1", "no step changes dropout"),
    ],
)
def test_what_cannot_be_taken_apart(source, target, said):
    with pytest.raises(UsageError, match=said):
        route(source, target)
