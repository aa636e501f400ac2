"""Token files: what they hold decodes to the text, and they are made once."""

import array
import json

import pytest
from tokenizers import Tokenizer

from muse_bench.errors import UsageError
from muse_bench.quality import tokens as module
from muse_bench.quality.tokens import SEPARATOR, cache_folder, check_vocabulary, prepare_tokens


def ids(path, code="H"):
    found = array.array(code)
    found.frombytes(path.read_bytes())
    return list(found)


def test_the_tokens_are_the_text_and_a_separator_after_each_document(corpus, files):
    tokenizer = Tokenizer.from_file(str(files.train.with_name("tokenizer.json")))
    text = tokenizer.decode(ids(files.validation), skip_special_tokens=False)
    assert text == "".join(document.read().decode() + SEPARATOR for document in corpus.validation)
    assert len(ids(files.validation)) == files.validation_tokens
    assert files.facts.words == 300


def test_the_lengths_are_those_of_the_bytes(corpus, files):
    lengths = json.loads(files.lengths.read_text())
    assert sum(lengths[token] for token in ids(files.validation)) == corpus.facts.validation_bytes


def test_the_second_time_nothing_is_made(corpus, files, tmp_path):
    said = []
    assert prepare_tokens(corpus, 300, 4_000, tmp_path / "cache", said.append) == files
    assert said == []


def test_more_tokens_are_made_when_they_are_wanted(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", 1_000)
    few = prepare_tokens(corpus, 300, 500, tmp_path, lambda _: None)
    start = ids(few.train)
    more = prepare_tokens(corpus, 300, 3_000, tmp_path, lambda _: None)
    assert 500 <= few.train_tokens < 3_000 <= more.train_tokens
    assert ids(more.train)[: len(start)] == start
    every = prepare_tokens(corpus, 300, 10**9, tmp_path, lambda _: None)
    assert prepare_tokens(corpus, 300, 10**12, tmp_path, lambda _: None) == every


def test_a_large_vocabulary_takes_four_bytes_a_token(corpus, tmp_path):
    files = prepare_tokens(corpus, 70_000, 1_000, tmp_path, lambda _: None)
    assert files.validation.stat().st_size == 4 * files.validation_tokens
    assert files.facts.vocab == 70_000 > files.facts.words
    assert max(ids(files.train, "I")) < files.facts.words


def test_the_cache_is_the_users_own(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "muse-bench" / "quality"


def test_a_cache_that_cannot_be_written_is_named(corpus, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        prepare_tokens(corpus, 300, 10, tmp_path / "cache", lambda _: None)


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'muse-bench\[quality\]'"):
        check_vocabulary(1_000)


def test_every_byte_needs_a_word():
    check_vocabulary(257)
    with pytest.raises(UsageError, match="--vocab 256 is too small"):
        check_vocabulary(256)
