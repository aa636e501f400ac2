"""A corpus: documents without duplicates, in an order and a split that depend on their names alone. No torch."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from muse_bench.errors import UsageError
from muse_bench.quality.record import CorpusFacts

VALIDATION_SHARE = 0.02
VALIDATION_BYTES = 8 << 20
SAY_EVERY = 500
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Document:
    """A piece of text with a name of its own; `read` gives its bytes, or None where they cannot be had."""

    name: str
    read: Callable[[], bytes | None]


@dataclass(frozen=True, slots=True)
class Corpus:
    """The documents to train on and those to validate on, in the order in which they are used."""

    facts: CorpusFacts
    train: tuple[Document, ...]
    validation: tuple[Document, ...]


def build_corpus(source: str, documents: Iterable[Document], max_bytes: int, say: Say = lambda _: None) -> Corpus:
    """Reads the documents once, up to `max_bytes`, and splits them by name.

    A document goes to validation when the hash of its name falls into the lowest 2 %, until those amount to 8 MiB; the
    one with the lowest hash does in any case. What is empty, no UTF-8 or a copy of an earlier document is left out.
    Raises: UsageError when fewer than two documents remain.
    """
    kept: list[tuple[Document, int]] = []
    seen: set[bytes] = set()
    digest, total = hashlib.sha256(), 0
    for index, document in enumerate(sorted(documents, key=_order)):
        if index % SAY_EVERY == 0:
            say(f"reading {source}: {total >> 20} MiB")
        content = document.read()
        if not content or not _is_text(content):
            continue
        fingerprint = hashlib.sha256(content).digest()
        if fingerprint in seen:
            continue
        if total + len(content) > max_bytes:
            break
        seen.add(fingerprint)
        digest.update(document.name.encode("utf-8", "surrogateescape") + b"\0" + fingerprint)
        kept.append((document, len(content)))
        total += len(content)
    if len(kept) < 2:
        raise UsageError(f"{source}: holds no text that could be split in two: give more of it")
    return _split(source, digest.hexdigest(), kept)


def _split(source: str, sha256: str, kept: Sequence[tuple[Document, int]]) -> Corpus:
    lowest, validation_bytes = min(kept, key=lambda one: _share(one[0]))
    train: list[Document] = []
    validation: list[Document] = []
    train_bytes = 0
    for document, size in kept:
        if document is lowest:
            validation.append(document)
        elif _share(document) < VALIDATION_SHARE and validation_bytes + size <= VALIDATION_BYTES:
            validation.append(document)
            validation_bytes += size
        else:
            train.append(document)
            train_bytes += size
    facts = CorpusFacts(
        source=source,
        sha256=sha256,
        files=len(kept),
        train_files=len(train),
        train_bytes=train_bytes,
        validation_bytes=validation_bytes,
    )
    return Corpus(facts, tuple(train), tuple(validation))


def _order(document: Document) -> tuple[bytes, str]:
    """Another hash than the split's, so that a corpus cut short holds a bit of everything."""
    return _hash(f"order {document.name}"), document.name


def _share(document: Document) -> float:
    return int.from_bytes(_hash(f"split {document.name}")[:8]) / 2**64


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _is_text(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
