"""A tiny corpus, its tokens, and trials of a model of one layer."""

import dataclasses
import random
from pathlib import Path

import pytest

from muse_bench.config import Case, Sizes
from muse_bench.models.presets import find_preset
from muse_bench.quality.corpus import Document, build_corpus
from muse_bench.quality.tokens import prepare_tokens
from muse_bench.quality.trial import Trial

VOCAB, SEQ, BATCH = 300, 16, 4
WORDS = ("def", "return", "value", "index", "for", "in", "range", "self", "None", "if", "else", "yield")


def documents(count: int = 80) -> list[Document]:
    """Documents of a small language, each different from the others."""
    draw = random.Random(0)
    texts = [" ".join(draw.choice(WORDS) for _ in range(60)).encode() + b"\n" for _ in range(count)]
    return [Document(f"package/module_{index}.py", lambda text=text: text) for index, text in enumerate(texts)]


@pytest.fixture
def corpus():
    """80 documents of about 300 bytes."""
    return build_corpus("a test", documents(), 1 << 20)


@pytest.fixture
def files(corpus, tmp_path):
    """Its tokens."""
    return prepare_tokens(corpus, VOCAB, 4_000, tmp_path / "cache", lambda _: None)


@pytest.fixture
def make_trial(files, tmp_path):
    """A trial of a preset, changed as a test needs it."""

    def make(model: str = "baseline", **changes) -> Trial:
        preset = find_preset(model)
        sizes = Sizes(vocab_size=VOCAB, d_model=32, n_layers=1, n_heads=4, seq_len=SEQ)
        case = Case(
            model=model,
            config=preset.configure(sizes),
            dtype=preset.dtype,
            optimizer=preset.optimizer,
            batch=BATCH,
            seq=SEQ,
            vocab_size=VOCAB,
            micro_batch=preset.micro_batch,
            seed=changes.pop("seed", 0),
        )
        case = dataclasses.replace(case, **changes.pop("case", {}))
        trial = Trial(
            case=case,
            stage="final",
            lr=3e-3,
            tokens=60 * BATCH * SEQ,
            pool_tokens=3_000,
            validation_tokens=(files.validation_tokens - 1) // SEQ * SEQ,
            train=str(files.train),
            validation=str(files.validation),
            lengths=str(files.lengths),
            checkpoint=str(Path(tmp_path, "unfinished", "one.pt")),
        )
        return dataclasses.replace(trial, **changes)

    return make
