"""Sharded cases on two H200s in reports/, beside their predictions: a report of either alone, or of others, fails."""

from pathlib import Path

import pytest

from muse_bench.analysis.accuracy import Pair, pair_up
from muse_bench.record import read_run_file

REPORTS = Path(__file__).parents[3] / "reports" / "h200"
LARGEST_ERROR = 0.03
FIGURES = ("peak_allocated_bytes", "cold_peak_allocated_bytes", "peak_reserved_bytes")


def pairs() -> list[Pair]:
    files = [*REPORTS.glob("sharded-*.json"), *(REPORTS / "predicted").glob("sharded-*.json")]
    records = [record for file in sorted(files) for record in read_run_file(file).records]
    return [pair for pair in pair_up(records) if pair.measured.sharding is not None]


def test_every_way_was_measured_and_predicted() -> None:
    assert {pair.measured.sharding for pair in pairs()} == {"fsdp", "tensor", "replicas"}


@pytest.mark.parametrize("figure", FIGURES)
def test_predictions_are_within_three_per_cent(figure: str) -> None:
    for pair in pairs():
        error = pair.error(figure)
        assert error is not None
        assert abs(error) <= LARGEST_ERROR, (pair.measured.model, pair.measured.sharding, error)


def test_the_ledgers_close_on_every_rank_and_agree() -> None:
    """Whether gathered weights are parameters on the GPU as in the prediction, and collectives communication."""
    for pair in pairs():
        for record in (pair.measured, pair.predicted):
            assert len(record.of_ranks) == record.ranks
            for row in record.of_ranks:
                assert row.ledger is not None
                assert row.ledger.total == row.peak_allocated_bytes
                assert abs(row.ledger.unattributed) <= row.peak_allocated_bytes / 100
        measured, predicted = pair.measured.ledger, pair.predicted.ledger
        assert measured is not None
        assert predicted is not None
        for part in ("parameters", "gradients", "optimizer_state", "communication"):
            apart = abs(getattr(predicted, part) - getattr(measured, part))
            assert apart <= LARGEST_ERROR * measured.total, (pair.measured.model, pair.measured.sharding, part)
