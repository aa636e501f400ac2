"""Means, spreads and differences of quality runs, by hand."""

import dataclasses

import pytest

from muse_bench.analysis.quality import compare_quality, spread
from muse_bench.quality.record import QualityRow

ROW = QualityRow(
    model="baseline",
    config={"vocab_size": 300},
    stage="final",
    seed=0,
    lr=1e-3,
    tokens=960,
    pool_tokens=1_000,
    batch=4,
    seq=16,
    dtype="fp32",
    optimizer="adamw",
    peak_allocated_bytes=1_000,
    gpu="NVIDIA H200",
)


def runs(model, *losses, **changes):
    return [
        dataclasses.replace(ROW, model=model, seed=seed, validation_loss=loss, **changes)
        for seed, loss in enumerate(losses)
    ]


def test_a_spread_is_that_of_a_sample():
    assert spread([2.0, None, 4.0]).mean == 3.0
    assert spread([2.0, 4.0]).deviation == pytest.approx(2**0.5)
    assert spread([2.0]).deviation is None
    assert spread([None]) is None


def test_the_difference_is_taken_seed_by_seed():
    rows = [*runs("baseline", 2.0, 3.0, 4.0), *runs("tuned", 2.5, 3.5, 4.5, peak_allocated_bytes=250)]
    (comparison,) = compare_quality(rows, "baseline")
    baseline, tuned = comparison.summaries
    assert (baseline.difference, baseline.reduction) == (None, None)
    assert tuned.loss.deviation == pytest.approx(1.0)
    assert (tuned.difference.mean, tuned.difference.deviation) == (pytest.approx(0.5), pytest.approx(0.0))
    assert tuned.reduction == 0.75


def test_a_seed_that_diverged_counts_in_no_mean():
    lost = dataclasses.replace(ROW, model="tuned", seed=1, status="diverged", validation_loss=9.0)
    (comparison,) = compare_quality([*runs("baseline", 2.0, 3.0), *runs("tuned", 2.5), lost], "baseline")
    tuned = comparison.summaries[1]
    assert tuned.loss.mean == 2.5
    assert tuned.difference.mean == 0.5
    assert (len(tuned.ended), len(tuned.rows)) == (1, 2)


def test_runs_of_other_tokens_or_sizes_are_not_compared():
    rows = [*runs("baseline", 2.0), *runs("tuned", 1.0, tokens=9_600), *runs("tuned", 1.5, config={"vocab_size": 400})]
    comparisons = compare_quality(rows, "baseline")
    assert [len(comparison.summaries) for comparison in comparisons] == [1, 1, 1]
    assert all(one.difference is None for comparison in comparisons for one in comparison.summaries)


def test_peaks_of_two_cards_are_not_divided():
    rows = [*runs("baseline", 2.0), *runs("tuned", 1.0, gpu="NVIDIA L4")]
    (comparison,) = compare_quality(rows, "baseline")
    assert comparison.summaries[1].reduction is None


@pytest.mark.parametrize(("best", "edge"), [(1e-3, "smallest"), (2e-3, None), (3e-3, "largest")])
def test_a_best_rate_at_the_edge_is_known(best, edge):
    swept = [dataclasses.replace(ROW, stage="sweep", lr=lr, tokens=64) for lr in (1e-3, 2e-3, 3e-3)]
    (comparison,) = compare_quality([*swept, *runs("baseline", 2.0, lr=best)], "baseline")
    assert comparison.summaries[0].edge == edge
    assert len(comparison.summaries[0].sweep) == 3


def test_a_model_of_a_users_own_joins_those_of_its_protocol():
    rows = [*runs("baseline", 2.0), *runs("mine.py:build", 1.0, config={})]
    (comparison,) = compare_quality(rows, "baseline")
    assert comparison.summaries[1].difference.mean == -1.0
