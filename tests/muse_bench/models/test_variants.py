"""Variants: what a name with changes means, that every difference can be written as one, and what is refused."""

import dataclasses
import itertools

import pytest

from muse_bench.config import ModelConfig, Sizes
from muse_bench.errors import UsageError
from muse_bench.models.presets import PRESETS, Share, find_preset
from muse_bench.models.variants import CASE_FIELDS, changed_name, difference, find_model, learns_as, value_text

SIZES = Sizes(vocab_size=10_000, d_model=512, n_layers=6, n_heads=8, seq_len=512)


def test_a_preset_alone_is_itself():
    assert find_model("ultra") == find_preset("ultra")


def test_fields_are_read_by_their_types():
    model = find_model("muse+offload=false+optimizer=adamw-8bit+prefill_chunk=none+gate_l1=1e-3+micro_batch=2")
    config = model.configure(SIZES)
    assert (model.optimizer, model.micro_batch, model.update) == ("adamw-8bit", 2, "in-backward")
    assert (config.offload, config.prefill_chunk, config.gate_l1) == (False, None, 0.001)


def test_none_is_a_word_where_the_field_has_it_and_no_value_elsewhere():
    model = find_model("ultimate+checkpointing=none+optimizer=none+micro_batch=none")
    assert (model.configure(SIZES).checkpointing, model.optimizer, model.micro_batch) == ("none", "none", None)


@pytest.mark.parametrize(("text", "rank"), [("12", 12), ("d/64", 8), ("d/64min20", 20), ("d/5", 102), ("d/5x32", 96)])
def test_a_rank_may_be_a_share_of_the_width(text, rank):
    assert find_model(f"ultra+ffn_rank={text}").configure(SIZES).ffn_rank == rank


@pytest.mark.parametrize("share", [Share(5), Share(64, 8), Share(5, multiple=32), Share(5, 4, 32)])
def test_a_share_is_read_as_it_is_written(share):
    assert find_model(f"ultra+ffn_rank={value_text(share)}").parts["ffn_rank"] == share


def test_of_two_changes_of_a_field_the_last_one_counts():
    assert find_model("ultra+mixer_rank=2+mixer_rank=16").parts["mixer_rank"] == 16


@pytest.mark.parametrize(("before", "after"), [*itertools.permutations(PRESETS, 2)])
def test_every_preset_is_a_variant_of_every_other(before, after):
    """A field that a name cannot set, or sets to another value, would make another model of the same name."""
    name = changed_name(before, difference(find_preset(before), find_preset(after)))
    found = find_model(name)
    assert found.configure(SIZES) == find_preset(after).configure(SIZES)
    assert all(getattr(found, field) == getattr(find_preset(after), field) for field in CASE_FIELDS)


def test_what_goes_without_saying_is_no_value():
    """`none` drops a part, which is right only while the default of every such part is None."""
    defaults = {f.name: f.default for f in dataclasses.fields(ModelConfig) if "None" in str(f.type)}
    assert defaults
    assert set(defaults.values()) == {None}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ulta+dtype=fp16", ["'ulta'", "ultra"]),
        ("ultra+embeding_rank=8", ["'embeding_rank'", "embedding_rank"]),
        ("ultra+d_model=64", ["'d_model'", "embedding_rank"]),
        ("ultra+dtype", ["'dtype'", "field=value"]),
        ("ultra+", ["''", "field=value"]),
        ("ultra+dtype=fp8", ["dtype 'fp8'", "fp32, fp16 or bf16"]),
        ("ultra+offload=1", ["offload '1'", "true or false"]),
        ("ultra+embedding_rank=-1", ["'-1'", "whole number", "d/64"]),
        ("ultra+embedding_rank=" + "9" * 5_000, ["embedding_rank", "whole number"]),
        ("ultra+micro_batch=d/2", ["micro_batch 'd/2'", "whole number or none"]),
        ("ultra+gate_l1=nan", ["gate_l1 'nan'", "number of at least 0"]),
        ("ultra+summary=mine", ["'summary'"]),
    ],
)
def test_what_is_no_variant(name, said):
    with pytest.raises(UsageError) as caught:
        find_model(name)
    assert all(words in str(caught.value) for words in said)
    assert "\n" not in str(caught.value)


def test_what_saves_memory_without_a_trace_changes_nothing_that_is_learned():
    assert learns_as("muse") == learns_as("muse+weights=device+offload=false+execution=eager+prefill_chunk=none")
    assert learns_as("baseline") == learns_as("baseline+loss=fused+checkpointing=blocks")
    kinds = {learns_as(name) for name in ("muse", "muse+ffn_rank=8", "muse+update=after", "muse+optimizer=adamw")}
    assert len(kinds) == 4
    assert learns_as("mine.py:build") == "mine.py:build"


def test_host_memory_is_for_the_checkpoints_of_sublayers():
    """A flag that does nothing would look like a technique that saves nothing."""
    with pytest.raises(UsageError, match="offload is for the checkpoints of sublayers"):
        find_model("ultra+offload=true").configure(SIZES)
