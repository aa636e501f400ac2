"""Records that answer a question, and evidence made of records."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from muse_bench.analysis.claims.evidence import Evidence
from muse_bench.analysis.claims.question import Question
from muse_bench.config import Sizes
from muse_bench.models.variants import find_model
from muse_bench.record import Environment, Record, RunFile

SIZES = Sizes(vocab_size=100, d_model=32, n_layers=2, n_heads=4, seq_len=16)


@pytest.fixture
def question() -> Question:
    return Question(model="baseline", sizes=SIZES, batch=2, mode="train")


@pytest.fixture
def answer_to(make_record) -> Callable[..., Record]:
    """The record of a question's case, with changes."""

    def make(question: Question, **changes: Any) -> Record:
        preset = None if ":" in question.model else find_model(question.model)
        asked = {
            "config": {} if preset is None else dataclasses.asdict(preset.configure(question.sizes)),
            "mode": question.mode,
            "dtype": "fp32" if preset is None else preset.dtype,
            "batch": question.batch,
            "seq": question.sizes.seq_len,
            "logits": question.logits,
            "optimizer": question.optimizer or ("adamw" if preset is None else preset.optimizer),
            "micro_batch": question.micro_batch,
        }
        return make_record(question.model, **{**asked, **changes})

    return make


@pytest.fixture
def known() -> Callable[..., Evidence]:
    """Evidence: this run's records, and a list of records for each saved file."""

    def make(*records: Record, saved: Sequence[Sequence[Record]] = (), **others: Any) -> Evidence:
        return Evidence(_run(records), tuple(map(_run, saved)), **others)

    return make


def _run(records: Sequence[Record]) -> RunFile:
    return RunFile(environment=Environment(muse_bench="0.1.0"), records=tuple(records))
