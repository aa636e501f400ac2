"""The record of a quality run: the text, the tokenizer, and what each training run gave. Plain data; no torch.

Losses are in nats a token; what could not be had is None, and a loss that is not finite counts as that.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from muse_bench.errors import UsageError
from muse_bench.record import SCHEMA_VERSION, Environment, join_commands, join_environments, read_head
from muse_bench.schema import check_values, is_size, known_fields, listed, read_json

Stage = Literal["sweep", "final"]
QualityStatus = Literal["ok", "diverged", "oom", "crashed"]
Execution = Literal["eager", "compiled", "graph"]
Curve = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusFacts:
    """Which text it was: where from, the hash of its names and contents in order, and how it was split."""

    source: str
    sha256: str
    files: int
    train_files: int
    train_bytes: int
    validation_bytes: int

    @property
    def total_bytes(self) -> int:
        """The text of both sides of the split."""
        return self.train_bytes + self.validation_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFacts:
    """Byte-level BPE: the vocabulary asked for, the words it has, which may be fewer, and the hash of its file."""

    vocab: int
    words: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRow:
    """One training run. `curve` holds pairs of tokens seen and the mean training loss since the pair before.

    `peak_allocated_bytes` is the steady peak of training, less the tokenised text that is kept on the device. `tf32`
    says that float32 products were rounded to TF32, `autocast` to what they were cast. `skipped_steps` counts steps
    that a float16 model skipped because its scaled gradients overflowed.
    """

    model: str
    config: dict[str, Any]
    stage: Stage
    seed: int
    lr: float
    tokens: int
    pool_tokens: int
    batch: int
    seq: int
    dtype: str
    optimizer: str
    micro_batch: int | None = None
    tf32: bool = False
    autocast: str | None = None
    status: QualityStatus = "ok"
    reason: str | None = None
    parameters: int | None = None
    validation_tokens: int | None = None
    validation_loss: float | None = None
    perplexity: float | None = None
    bits_per_byte: float | None = None
    tokens_per_second: float | None = None
    peak_allocated_bytes: int | None = None
    skipped_steps: int | None = None
    execution: Execution = "eager"
    curve: Curve = ()
    seconds: float | None = None
    gpu: str | None = None
    commit: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def identity(self) -> tuple[Any, ...]:
        """What was asked for: a finished run of the same identity need not be done again."""
        asked = (self.stage, self.seed, self.lr, self.tokens, self.pool_tokens, self.batch, self.seq)
        parts = tuple(sorted((name, str(value)) for name, value in self.config.items()))
        return (self.model, parts, self.dtype, self.optimizer, self.micro_batch, self.tf32, self.autocast, *asked)

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """A row from parsed JSON. Raises: UsageError that names the field that is missing or of the wrong type."""
        if not isinstance(values, dict):
            raise UsageError("a run is not a JSON object")
        known = known_fields(cls, values)
        for required in dataclasses.fields(cls):
            if required.default is dataclasses.MISSING and required.name not in known:
                raise UsageError(f"a run lacks the field '{required.name}'")
        curve = tuple(_point(point) for point in listed("curve", known.pop("curve", [])))
        notes = tuple(str(note) for note in listed("notes", known.pop("notes", [])))
        check_values(cls, known)
        return cls(**known, curve=curve, notes=notes)


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRun:
    """A run of the quality bench: where, on which text, with which tokenizer, and a row for each training run."""

    environment: Environment
    corpus: CorpusFacts
    tokenizer: TokenizerFacts
    rows: tuple[QualityRow, ...] = ()
    command: str | None = None
    schema_version: int = field(default=SCHEMA_VERSION)

    def to_json(self) -> str:
        """The file's text: JSON with a line for each field of each row."""
        head = {
            "schema_version": self.schema_version,
            "command": self.command,
            "environment": dataclasses.asdict(self.environment),
            "corpus": dataclasses.asdict(self.corpus),
            "tokenizer": dataclasses.asdict(self.tokenizer),
        }
        rows = ",\n".join("{\n" + _fields(dataclasses.asdict(row), "  ") + "\n }" for row in self.rows)
        return "{\n" + _fields(head, " ") + ',\n "runs": [' + rows + "]\n}\n"


def read_quality_file(path: Path) -> QualityRun:
    """The run of a JSON file.

    Raises: UsageError when the file cannot be read, is none of the quality bench, or comes from a newer schema.
    """
    return read_json(path, _quality_run)


def _quality_run(values: Any) -> QualityRun:
    environment, command = read_head(values, "runs")
    return QualityRun(
        environment=environment,
        corpus=_facts(CorpusFacts, values["corpus"]),
        tokenizer=_facts(TokenizerFacts, values["tokenizer"]),
        rows=tuple(QualityRow.from_json(row) for row in listed("runs", values["runs"])),
        command=command,
    )


def _facts(kind: Any, values: Any) -> Any:
    known = known_fields(kind, values)
    check_values(kind, known)
    return kind(**known)


def _point(values: Any) -> tuple[int, float]:
    if not isinstance(values, list) or len(values) != 2:
        raise UsageError("'curve' holds what is no pair of tokens and loss")
    tokens, loss = values
    if not is_size(tokens) or isinstance(loss, bool) or not isinstance(loss, int | float):
        raise UsageError("'curve' holds a pair that is not of tokens and loss")
    return tokens, float(loss)


def _fields(values: dict[str, Any], indent: str) -> str:
    return ",\n".join(f"{indent}{json.dumps(name)}: {json.dumps(v, allow_nan=False)}" for name, v in values.items())


def merged(runs: Sequence[QualityRun]) -> list[QualityRun]:
    """Runs on the same text, tokens, torch and GPU become one, such as those of several GPUs; a row counts once, the
    last one of its kind."""
    groups: dict[tuple[Any, ...], list[QualityRun]] = {}
    for run in runs:
        environment = run.environment
        groups.setdefault((run.corpus, run.tokenizer, environment.torch, environment.gpu), []).append(run)
    return [_one(group) for group in groups.values()]


def _one(runs: Sequence[QualityRun]) -> QualityRun:
    rows = {row.identity: row for run in runs for row in run.rows}
    environment = join_environments([run.environment for run in runs])
    command = join_commands(run.command for run in runs)
    return dataclasses.replace(runs[0], environment=environment, rows=tuple(rows.values()), command=command)
