"""Reductions, and above all the ones that are refused."""

import dataclasses

import pytest

from muse_bench.analysis.comparison import add_reductions, choose_baseline, refusal
from muse_bench.errors import UsageError


def test_a_reduction_is_the_share_of_the_baselines_peak_that_is_saved(make_record):
    rows = [make_record(peak_allocated_bytes=1_000), make_record("ultra", peak_allocated_bytes=50)]
    baseline, ultra = add_reductions(rows, "baseline")
    assert (baseline.reduction, baseline.reduction_against) == (0.0, "baseline")
    assert (ultra.reduction, ultra.reduction_against) == (pytest.approx(0.95), "baseline")


def test_a_larger_peak_is_a_negative_reduction(make_record):
    rows = [make_record(peak_allocated_bytes=100), make_record("worse", peak_allocated_bytes=150)]
    assert add_reductions(rows, "baseline")[1].reduction == pytest.approx(-0.5)


def test_an_inference_peak_is_never_divided_by_a_training_baseline(make_record):
    """The reports' 91.6 %: 38.2 MB at inference over 456.3 MB of a training baseline."""
    baseline = make_record(peak_allocated_bytes=456_300_000)
    ultimate = make_record("ultimate", mode="inference", peak_allocated_bytes=38_200_000)
    refused = add_reductions([baseline, ultimate], "baseline")[1]
    assert refused.reduction is None
    assert refused.reduction_against is None
    assert refused.notes == ("no reduction against 'baseline': mode is inference here and train there",)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("provenance", "measured"),
        ("gpu", "NVIDIA H200"),
        ("mode", "forward-backward"),
        ("batch", 2),
        ("seq", 512),
        ("input_shape", "3x224x224"),
        ("logits", "last"),
        ("workspace_setting", "off"),
    ],
)
def test_every_difference_of_protocol_is_refused(make_record, field, value):
    other = add_reductions([make_record(), make_record("ultra", **{field: value})], "baseline")[1]
    assert other.reduction is None
    assert field.replace("_", " ") in other.notes[0]


@pytest.mark.parametrize("size", ["vocab_size", "d_model", "n_layers"])
def test_models_of_other_sizes_are_refused(make_record, size):
    baseline = make_record()
    smaller = make_record("ultra", config={**baseline.config, size: 7})
    assert refusal(smaller, baseline) == f"{size.replace('_', ' ')} is 7 here and {baseline.config[size]} there"


def test_decoding_more_tokens_is_refused_but_only_decoding(make_record):
    rows = [make_record(new_tokens=32), make_record("ultra", new_tokens=64)]
    assert refusal(rows[1], rows[0]) is None
    rows = [dataclasses.replace(row, mode="decode") for row in rows]
    assert refusal(rows[1], rows[0]) == "new tokens is 64 here and 32 there"


def test_a_users_model_without_a_config_is_compared(make_record):
    rows = [make_record(peak_allocated_bytes=100), make_record("mine.py:build", config={}, peak_allocated_bytes=25)]
    assert add_reductions(rows, "baseline")[1].reduction == pytest.approx(0.75)


def test_a_baseline_that_ran_out_of_memory_gives_no_reduction(make_record):
    rows = [make_record(status="oom", peak_allocated_bytes=None), make_record("ultra")]
    assert add_reductions(rows, "baseline")[1].notes == ("no reduction against 'baseline': it has no peak (oom)",)


def test_a_case_that_failed_has_no_reduction_and_no_further_note(make_record):
    failed = make_record("ultra", status="oom", peak_allocated_bytes=None)
    assert add_reductions([make_record(), failed], "baseline")[1] == failed


def test_each_record_finds_the_baseline_of_its_own_protocol(make_record):
    rows = [
        make_record(peak_allocated_bytes=1_000),
        make_record(peak_allocated_bytes=100, mode="inference"),
        make_record("ultra", peak_allocated_bytes=50, mode="inference"),
    ]
    assert add_reductions(rows, "baseline")[2].reduction == pytest.approx(0.5)


def test_comparing_again_replaces_what_an_earlier_comparison_said(make_record):
    rows = [make_record(peak_allocated_bytes=100), make_record("ultra", batch=2), make_record("tuned")]
    rows = [dataclasses.replace(row, notes=("kept",)) for row in rows]
    once = add_reductions(rows, "baseline")
    assert add_reductions(once, "baseline") == once
    assert add_reductions(once, "nobody") == tuple(rows)


def test_the_usual_baselines_come_first():
    assert choose_baseline(["ultra", "encoder", "baseline"]) == "baseline"
    assert choose_baseline(["ultra", "encoder"]) == "encoder"
    assert choose_baseline(["ultra", "tuned"]) == "ultra"
    assert choose_baseline(["ultra", "baseline"], "ultra") == "ultra"


def test_a_wanted_baseline_must_be_among_the_models():
    with pytest.raises(UsageError, match=r"'tuned' is not among the models: choose from ultra, baseline"):
        choose_baseline(["ultra", "baseline", "ultra"], "tuned")
