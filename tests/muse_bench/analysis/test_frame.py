"""The frame holds SPEC's columns, whole numbers as whole numbers, and nothing where nothing is known."""

import pandas as pd

from muse_bench.analysis.frame import to_frame
from muse_bench.ledger import LEDGER_FIELDS

SPEC_COLUMNS = (
    *("model", "mode", "dtype", "batch", "seq", "status", "reason", "provenance", "parameters"),
    *("peak_allocated_bytes", "cold_peak_allocated_bytes", "peak_reserved_bytes", "device_peak_bytes"),
    *(f"ledger_{name}" for name in LEDGER_FIELDS),
    *("context_bytes", "step_time_seconds", "tokens_per_second", "reduction", "reduction_against", "verdict"),
)


def test_specs_fields_are_columns(make_record):
    frame = to_frame([make_record()])
    assert set(SPEC_COLUMNS) <= set(frame.columns)
    assert "config_vocab_size" in frame.columns
    assert not {"config", "ledger", "modules", "timeline"} & set(frame.columns)


def test_bytes_stay_integers_beside_a_missing_value(make_record):
    frame = to_frame([make_record(), make_record("ultra", status="oom", peak_allocated_bytes=None, ledger=None)])
    assert frame["peak_allocated_bytes"].dtype == pd.Int64Dtype()
    assert frame["ledger_parameters"].dtype == pd.Int64Dtype()
    assert frame["peak_allocated_bytes"].isna().tolist() == [False, True]


def test_configs_with_other_fields_share_the_table(make_record):
    frame = to_frame([make_record(config={"a": 1, "flag": True}), make_record(config={"b": "x"})])
    assert frame["config_a"].isna().tolist() == [False, True]
    assert frame["config_flag"].tolist()[0] is True
    assert frame["config_b"].tolist()[1] == "x"


def test_notes_are_one_text(make_record):
    frame = to_frame([make_record(notes=("one", "two")), make_record()])
    assert frame["notes"].tolist()[0] == "one; two"
    assert frame["notes"].isna().tolist() == [False, True]


def test_answers_of_other_predictors_are_columns_of_bytes(make_record):
    frame = to_frame([make_record(peers={"mem-tracker": 7, "accelerate": None}), make_record()])
    assert frame["peer_mem_tracker_bytes"].tolist() == [7, pd.NA]
    assert "peers" not in frame.columns


def test_host_memory_is_a_total_and_a_column_a_part(make_record):
    held = ({"checkpoints": 5, "optimizer state": 2}, {}, None)
    frame = to_frame([make_record(host_bytes=parts) for parts in held])
    assert frame["host_bytes"].tolist() == [7, 0, pd.NA]
    assert frame["host_optimizer_state_bytes"].tolist() == [2, pd.NA, pd.NA]


def test_no_records_are_an_empty_frame():
    assert to_frame([]).empty
