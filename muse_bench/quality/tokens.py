"""Byte-level BPE trained on a corpus, and the corpus as files of token ids; both are kept in the user's cache.

A file of ids is uint16, or uint32 for a vocabulary above 65,536, in the machine's byte order. No torch.
"""

import array
import hashlib
import importlib.util
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muse_bench.errors import UsageError
from muse_bench.quality.corpus import Corpus, Document, Say
from muse_bench.quality.record import TokenizerFacts
from muse_bench.record import write_whole

CACHE_VARIABLE = "XDG_CACHE_HOME"
FORMAT = 1  # of what is cached: a change here leaves older files alone
SEPARATOR = "<|endoftext|>"
SMALLEST_VOCABULARY = 257  # every byte, and the separator
LARGEST_UINT16 = 1 << 16
SAMPLE_BYTES = 32 << 20
CHUNK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class TokenFiles:
    """A tokenised corpus. `train_tokens` counts what is in the file, which ends once there are enough."""

    facts: TokenizerFacts
    train: Path
    train_tokens: int
    validation: Path
    validation_tokens: int
    lengths: Path


def cache_folder() -> Path:
    """Where tokenizers, token files and unfinished runs are kept."""
    base = os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache"
    return Path(base) / "muse-bench" / "quality"


def check_vocabulary(vocab_size: int) -> None:
    """Raises: UsageError when `tokenizers` is not installed, or the vocabulary has no room for every byte."""
    if importlib.util.find_spec("tokenizers") is None:
        raise UsageError("quality needs the package tokenizers: pip install 'muse-bench[quality]'")
    if vocab_size < SMALLEST_VOCABULARY:
        raise UsageError(f"--vocab {vocab_size} is too small for byte-level BPE: use {SMALLEST_VOCABULARY} or more")


def prepare_tokens(corpus: Corpus, vocab_size: int, tokens: int, folder: Path, say: Say) -> TokenFiles:
    """The tokenizer for this corpus and at least `tokens` training tokens, or all there are; made where not cached.

    Raises: UsageError when the cache cannot be written.
    """
    key = hashlib.sha256(f"{FORMAT} {corpus.facts.sha256} {vocab_size}".encode()).hexdigest()[:16]
    place = folder / key
    try:
        place.mkdir(parents=True, exist_ok=True)
        tokenizer = _tokenizer(place / "tokenizer.json", corpus.train, vocab_size, say)
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        lengths = {number: 0 if word == SEPARATOR else len(word) for word, number in vocabulary.items()}
        write_whole(place / "lengths.json", json.dumps([lengths[number] for number in range(len(lengths))]))
        encode = _Encoder(tokenizer, wide=vocab_size > LARGEST_UINT16, say=say)
        train = encode.file(place / "train.bin", "training", corpus.train, tokens)
        validation = encode.file(place / "validation.bin", "validation", corpus.validation, None)
    except OSError as error:
        raise UsageError(f"{error.filename or place}: cannot be written: {error.strerror or error}") from error
    text = (place / "tokenizer.json").read_bytes()
    facts = TokenizerFacts(vocab=vocab_size, words=len(lengths), sha256=hashlib.sha256(text).hexdigest())
    return TokenFiles(facts, place / "train.bin", train, place / "validation.bin", validation, place / "lengths.json")


def _tokenizer(path: Path, documents: Sequence[Document], vocab_size: int, say: Say) -> Any:
    from tokenizers import Tokenizer
    from tokenizers.decoders import ByteLevel as ByteLevelDecoder
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer

    if not path.exists():
        say(f"training a tokenizer of {vocab_size:,} words")
        made = Tokenizer(BPE())
        made.pre_tokenizer = ByteLevel(add_prefix_space=False)
        made.decoder = ByteLevelDecoder()
        trainer = BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[SEPARATOR],
            initial_alphabet=ByteLevel.alphabet(),
            show_progress=False,
        )
        made.train_from_iterator(_sample(documents), trainer)
        write_whole(path, made.to_str())
    return Tokenizer.from_file(str(path))  # also the one just made, so that the first run is like the next


def _sample(documents: Iterable[Document]) -> Iterator[str]:
    left = SAMPLE_BYTES
    for document in documents:
        if left <= 0:
            return
        content = document.read() or b""
        left -= len(content)
        yield content.decode("utf-8", "replace")


class _Encoder:
    """Writes documents as token ids, a separator after each; the library encodes on all cores."""

    def __init__(self, tokenizer: Any, *, wide: bool, say: Say) -> None:
        self._tokenizer, self._say = tokenizer, say
        self._code = "I" if wide else "H"
        self._separator = tokenizer.token_to_id(SEPARATOR)

    def file(self, path: Path, what: str, documents: Sequence[Document], enough: int | None) -> int:
        """Writes the file unless it is there with enough tokens; returns how many it has."""
        facts = path.with_suffix(".json")
        if path.exists() and facts.exists():
            known = json.loads(facts.read_text(encoding="utf-8"))
            if known["complete"] or (enough is not None and known["tokens"] >= enough):
                return int(known["tokens"])
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                count, complete = self._write(stream.write, what, documents, enough)
            facts.unlink(missing_ok=True)  # never an old count beside a new file
            os.replace(temporary, path)
            write_whole(facts, json.dumps({"tokens": count, "complete": complete}))
        finally:
            Path(temporary).unlink(missing_ok=True)
        return count

    def _write(
        self, write: Callable[[bytes], int], what: str, documents: Sequence[Document], enough: int | None
    ) -> tuple[int, bool]:
        count = done = 0
        for chunk in _chunks(documents):
            texts = [content.decode("utf-8", "replace") for content in chunk]
            for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False):
                ids = array.array(self._code, itertools.chain(encoding.ids, (self._separator,)))
                write(ids.tobytes())
                count += len(ids)
            done += len(chunk)
            if enough is not None and count >= enough:
                return count, done == len(documents)
            share = count / enough if enough else done / len(documents)
            self._say(f"tokenising the {what} text: {share:.0%}, {count / 1e6:.1f}M tokens")
        return count, True


def _chunks(documents: Iterable[Document]) -> Iterator[list[bytes]]:
    """Documents to encode at a time: few enough that their encodings fit into memory."""
    chunk: list[bytes] = []
    size = 0
    for document in documents:
        content = document.read() or b""
        chunk.append(content)
        size += len(content)
        if size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
