"""Which prediction belongs to which measurement, and what errors amount to."""

import dataclasses

import pytest

from muse_bench.analysis.accuracy import Pair, pair_up, summarise
from muse_bench.config import ModelConfig

CONFIG = {"vocab_size": 61, "d_model": 32, "n_layers": 1, "n_heads": 4, "max_seq_len": 16}


@pytest.fixture
def both(make_record):
    def make(**changes):
        """A measurement, and a prediction that differs in what is given."""
        return make_record(provenance="measured"), make_record(provenance="predicted", **changes)

    return make


def test_a_case_is_paired_with_its_own_prediction(both):
    measured, predicted = both()
    assert pair_up([predicted, measured]) == (Pair(measured, predicted),)


@pytest.mark.parametrize(
    "changes",
    [
        {"gpu": "NVIDIA H200"},
        {"autocast": "bf16"},
        {"optimizer": "sgd"},
        {"micro_batch": 1},
        {"dtype": "bf16"},
        {"seq": 7},
        {"workspace_setting": "off"},
        {"config": {**CONFIG, "n_layers": 2}},
    ],
)
def test_another_protocol_is_another_case(both, changes):
    assert pair_up(both(**changes)) == ()


def test_the_last_prediction_of_a_case_counts(both):
    measured, old = both(peak_allocated_bytes=1)
    _, new = both(peak_allocated_bytes=2)
    assert pair_up([measured, old, new]) == (Pair(measured, new),)


def test_the_last_measurement_of_a_case_counts_and_once(both, make_record):
    """Measured again, a case would else weigh twice in the summary, once with what the code no longer does."""
    old, predicted = both()
    new = make_record(provenance="measured", peak_allocated_bytes=2)
    assert pair_up([old, predicted, new]) == (Pair(new, predicted),)


def test_a_config_saved_before_a_part_was_there_has_that_parts_default(both, make_record):
    """Else a new field of ModelConfig would part every saved measurement from its prediction."""
    new = dataclasses.asdict(ModelConfig(**CONFIG))
    records = make_record(provenance="measured", config=CONFIG), make_record(provenance="predicted", config=new)
    assert len(pair_up(records)) == 1
    changed = make_record(provenance="predicted", config={**CONFIG, "norm": "rms-norm"})
    assert pair_up((records[0], changed)) == ()


def test_a_prediction_that_failed_is_a_pair_without_an_error(both):
    """Dropped, it would leave the table as if it had been right."""
    (pair,) = pair_up(both(status="crashed", peak_allocated_bytes=None))
    assert pair.error("peak_allocated_bytes") is None


def test_a_measurement_that_failed_is_no_pair(make_record):
    assert pair_up([make_record(provenance="measured", status="oom"), make_record(provenance="predicted")]) == ()


def test_errors_are_signed_and_summed_up_by_size():
    summary = summarise([0.01, -0.03, None, 0.02])
    assert (summary.cases, summary.under_estimates) == (3, 1)
    assert (summary.median, summary.worst, summary.worst_under_estimate) == (0.02, 0.03, 0.03)


def test_the_95th_percentile_leaves_out_one_case_in_twenty():
    summary = summarise([place / 100 for place in range(1, 21)])
    assert (summary.percentile_95, summary.worst) == (0.19, 0.20)
    assert summarise([0.5]).percentile_95 == 0.5


def test_nothing_known_is_no_summary():
    assert summarise([None]) is None
