"""The record of the quality bench survives its file, and a file that anybody wrote is refused in one line."""

import dataclasses
import json

import pytest

from muse_bench.errors import UsageError
from muse_bench.quality.record import CorpusFacts, QualityRow, QualityRun, TokenizerFacts, merged, read_quality_file
from muse_bench.record import Environment

ROW = QualityRow(
    model="ultra",
    config={"vocab_size": 300, "mixer_rank": None},
    stage="final",
    seed=0,
    lr=1e-3,
    tokens=960,
    pool_tokens=1_000,
    batch=4,
    seq=16,
    dtype="fp16",
    optimizer="adamw",
    validation_loss=3.25,
    curve=((64, 5.5), (128, 4.0)),
    notes=("a note",),
)
RUN = QualityRun(
    environment=Environment(muse_bench="0.1.0", torch="2.13.0"),
    corpus=CorpusFacts(source="a", sha256="ab", files=3, train_files=2, train_bytes=100, validation_bytes=10),
    tokenizer=TokenizerFacts(vocab=300, words=290, sha256="cd"),
    rows=(ROW, dataclasses.replace(ROW, seed=1, status="diverged", reason="not finite", validation_loss=None)),
    command="muse-bench quality",
)


def test_a_run_survives_its_file(tmp_path):
    (tmp_path / "a.json").write_text(RUN.to_json())
    assert read_quality_file(tmp_path / "a.json") == RUN
    assert RUN.corpus.total_bytes == 110


def test_a_row_is_known_by_what_was_asked_for():
    assert dataclasses.replace(ROW, validation_loss=1.0, seconds=3.0).identity == ROW.identity
    for change in ({"seed": 2}, {"lr": 0.1}, {"dtype": "bf16"}, {"config": {"vocab_size": 301}}, {"tf32": True}):
        assert dataclasses.replace(ROW, **change).identity != ROW.identity


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"curve": 3}, "'curve' is not a list"),
        ({"curve": [[64]]}, "no pair of tokens and loss"),
        ({"curve": [[64, "x"]]}, "not of tokens and loss"),
        ({"curve": [[-1, 2.0]]}, "not of tokens and loss"),
        ({"lr": -1}, "'lr' is -1"),
        ({"status": "fine"}, "'status' is 'fine'"),
        ({"peak_allocated_bytes": 1.5}, "whole number of bytes"),
        ({"model": ...}, "lacks the field 'model'"),
    ],
)
def test_a_wrong_value_is_named(tmp_path, change, said):
    values = json.loads(RUN.to_json())
    values["runs"][0] = {name: value for name, value in {**values["runs"][0], **change}.items() if value is not ...}
    (tmp_path / "a.json").write_text(json.dumps(values))
    with pytest.raises(UsageError, match=said):
        read_quality_file(tmp_path / "a.json")


def test_another_record_is_none(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"schema_version": 1, "records": []}))
    with pytest.raises(UsageError, match=r"a\.json: not a record file"):
        read_quality_file(tmp_path / "a.json")


def test_runs_of_the_same_text_become_one_and_others_stay_apart() -> None:
    (first, *_), environment = RUN.rows, RUN.environment
    again = dataclasses.replace(first, validation_loss=1.25)
    other_seed = dataclasses.replace(first, seed=first.seed + 1)
    second = dataclasses.replace(RUN, rows=(again, other_seed), command="muse-bench quality --seeds 1")
    elsewhere = dataclasses.replace(RUN, environment=dataclasses.replace(environment, gpu="another"))
    found = merged([RUN, second, elsewhere])
    assert len(found) == 2
    assert found[0].rows[0] == again
    assert other_seed in found[0].rows
    assert len(found[0].rows) == len({row.identity for row in (*RUN.rows, again, other_seed)})
    assert found[1] == elsewhere
