"""Which documents a corpus has, in which order and on which side, depends on names and contents alone."""

import pytest

from muse_bench.errors import UsageError
from muse_bench.quality import corpus as module
from muse_bench.quality.corpus import Document, build_corpus


def document(name, content):
    return Document(name, lambda: content)


def many(count=400):
    return [document(f"{index}.py", f"value = {index}\n".encode()) for index in range(count)]


def names(documents):
    return [one.name for one in documents]


def test_the_split_is_the_same_in_any_order_and_disjoint():
    one, other = build_corpus("a", many(), 1 << 20), build_corpus("a", reversed(many()), 1 << 20)
    assert one.facts == other.facts
    assert (names(one.train), names(one.validation)) == (names(other.train), names(other.validation))
    assert set(names(one.train)) | set(names(one.validation)) == set(names(many()))
    assert not set(names(one.train)) & set(names(one.validation))
    assert 2 <= len(one.validation) <= 20  # 2 % of 400
    assert one.facts.total_bytes == sum(len(part.read()) for part in many())


def test_a_document_stays_on_its_side_when_others_come():
    few, more = build_corpus("a", many(400), 1 << 20), build_corpus("a", many(800), 1 << 20)
    assert set(names(few.validation)) <= set(names(more.validation))
    assert few.facts.sha256 != more.facts.sha256


def test_copies_what_is_empty_and_what_is_no_text_are_left_out():
    extra = [document("copy.py", b"value = 7\n"), document("empty.py", b""), document("latin.py", b"caf\xe9")]
    found = build_corpus("a", [*many(), *extra, Document("gone.py", lambda: None)], 1 << 20)
    assert found.facts.files == 400


def test_the_validation_side_is_capped(monkeypatch):
    monkeypatch.setattr(module, "VALIDATION_BYTES", 30)
    assert build_corpus("a", many(), 1 << 20).facts.validation_bytes <= 30


def test_no_more_is_read_than_allowed():
    found = build_corpus("a", many(), 500)
    assert 400 < found.facts.total_bytes <= 500


def test_two_documents_are_split_and_one_is_refused():
    found = build_corpus("a", many(2), 1 << 20)
    assert (len(found.train), len(found.validation)) == (1, 1)
    with pytest.raises(UsageError, match="holds no text that could be split"):
        build_corpus("a", many(1), 1 << 20)
