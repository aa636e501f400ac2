"""The record: what one case gave, as it is stored, with its environment. Plain data; no torch, no pandas.

Every size is an integer of bytes and every missing value is None. The field names are the JSON schema
and, flattened, the columns of the CSV; they are stable within `SCHEMA_VERSION`.
"""

import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from muse_bench.errors import UsageError
from muse_bench.ledger import (
    Ledger,
    ModuleRow,
    RankRow,
    Repeat,
    Status,
    TimelinePoint,
    parse_ledger,
    parse_rank,
    parse_repeat,
)
from muse_bench.schema import check_values, known_fields, listed, read_json

SCHEMA_VERSION = 1

JOINT = "; "  # between commands
PEERS = ("mem-tracker", "accelerate")  # the other predictors that a record can hold answers of

Provenance = Literal["measured", "predicted"]
Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A run under a hard cap of the allocator: whether all its steps ran, and how often it had to return its cache.

    `context_bytes` is what the cap leaves of the limit for the CUDA context and libraries.
    """

    cap_bytes: int
    ran: bool
    steps: int
    context_bytes: int | None = None
    alloc_retries: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One case and what it gave. SPEC's field names; what could not be had is None, with its reason in `notes`.

    `device_lower_bytes` and `device_upper_bytes` bound the device's use around a prediction; a measurement has none.
    `smallest_budget_bytes` is the least the device may have for the steps to run still, context included.
    `host_bytes` holds what the case keeps in pinned host memory, by part; it is empty where that is nothing.
    `to_device_bytes` and `to_host_bytes` cross the link between host and device in a step; for each new token in decode
    `new_token_to_device_bytes` do. `link_seconds` and `new_token_link_seconds` are the least that takes, and
    `link_source` says at which rate.
    `input_shape` is that of one sample, such as 3x224x224, of a model that reads no tokens; its `seq` is 1.
    `update` is when the optimizer runs, after or in backward; `execution` is how steps are launched, eager or graph.
    In decode `prefill_seconds` is the time until the first new token, `new_token_seconds` that of each after it, and
    `tokens_per_second` counts those; `state_per_sequence_bytes` is the cache or recurrent state of one sequence.
    A case with `sharding` ran on as many GPUs as there are `ranks`; its figures are those of the one that took the
    most, and `of_ranks` holds each that was measured or predicted. Its time is the longest, its rate that of all.
    `peers` holds the steady peak that each other predictor expects, in bytes, on a prediction that asked them.
    `case_id` is a digest of all that was asked for: two records of one id are of one case.
    `repeats` holds what each run gave of a case that ran several times; the other fields are of the one that took most.
    """

    model: str
    config: dict[str, Any]
    mode: str
    dtype: str
    batch: int
    seq: int
    status: Status
    provenance: Provenance
    gpu: str | None = None
    reason: str | None = None
    optimizer: str | None = None
    update: str | None = None
    execution: str | None = None
    autocast: str | None = None
    workspace_setting: str = "default"
    logits: str = "all"
    new_tokens: int | None = None
    micro_batch: int | None = None
    seed: int = 0
    input_shape: str | None = None
    sharding: str | None = None
    ranks: int | None = None
    parameters: int | None = None
    peak_allocated_bytes: int | None = None
    cold_peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    device_peak_bytes: int | None = None
    device_peak_provenance: str | None = None
    device_lower_bytes: int | None = None
    device_upper_bytes: int | None = None
    host_bytes: dict[str, int] | None = None
    to_device_bytes: int | None = None
    to_host_bytes: int | None = None
    new_token_to_device_bytes: int | None = None
    link_seconds: float | None = None
    new_token_link_seconds: float | None = None
    link_source: str | None = None
    ledger: Ledger | None = None
    context_bytes: int | None = None
    context_source: str | None = None
    step_time_seconds: float | None = None
    tokens_per_second: float | None = None
    prefill_seconds: float | None = None
    new_token_seconds: float | None = None
    state_per_sequence_bytes: int | None = None
    reduction: float | None = None
    reduction_against: str | None = None
    budget_bytes: int | None = None
    limit_bytes: int | None = None
    verdict: Verdict | None = None
    proof: Proof | None = None
    smallest_budget_bytes: int | None = None
    modules: tuple[ModuleRow, ...] = ()
    timeline: tuple[TimelinePoint, ...] = ()
    of_ranks: tuple[RankRow, ...] = ()
    peers: dict[str, int | None] = field(default_factory=dict)
    repeats: tuple[Repeat, ...] = ()
    notes: tuple[str, ...] = ()
    duration_seconds: float | None = None
    case_id: str | None = None

    @property
    def input_text(self) -> str:
        """How long a sequence of tokens is, or the shape of a sample."""
        return f"seq {self.seq}" if self.input_shape is None else f"input {self.input_shape}"

    @property
    def host_total_bytes(self) -> int | None:
        """All that the case keeps in pinned host memory."""
        return None if self.host_bytes is None else sum(self.host_bytes.values())

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """A record from parsed JSON; unknown fields are ignored, so that newer minor fields still read.

        Raises: UsageError that names the field that is missing or of the wrong type.
        """
        if not isinstance(values, dict):
            raise UsageError("a record is not a JSON object")
        known = {f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values}
        for name in ("model", "config", "mode", "dtype", "batch", "seq", "status", "provenance"):
            if name not in known:
                raise UsageError(f"a record lacks the field '{name}'")
        several = ("modules", "timeline", "of_ranks", "notes", "repeats")
        rows = {name: listed(name, known.pop(name, [])) for name in several}
        ledger, proof = known.pop("ledger", None), known.pop("proof", None)
        check_values(cls, known)
        return cls(
            **known,
            ledger=None if ledger is None else parse_ledger(ledger, whole=True),
            proof=None if proof is None else _proof(proof),
            modules=tuple(
                ModuleRow(
                    module=str(row["module"]), ledger=parse_ledger(row["ledger"]), source=_text(row.get("source"))
                )
                for row in rows["modules"]
            ),
            timeline=tuple(
                TimelinePoint(phase=str(row["phase"]), ledger=parse_ledger(row["ledger"])) for row in rows["timeline"]
            ),
            of_ranks=tuple(parse_rank(row) for row in rows["of_ranks"]),
            notes=tuple(str(note) for note in rows["notes"]),
            repeats=tuple(map(parse_repeat, rows["repeats"])),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where the records came from."""

    muse_bench: str
    torch: str | None = None
    triton: str | None = None
    cuda: str | None = None
    driver: str | None = None
    gpu: str | None = None
    gpu_total_bytes: int | None = None
    compute_capability: str | None = None
    allocator_config: str = ""
    cublas_workspace_config: str = ""
    commit: str | None = None
    python: str | None = None
    platform: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFile:
    """A file of records: their environment, the command that made them, and the records."""

    environment: Environment
    records: tuple[Record, ...]
    command: str | None = None
    schema_version: int = field(default=SCHEMA_VERSION)

    def to_json(self) -> str:
        """The file's text: JSON with a line for each field of each record."""
        head = {
            "schema_version": self.schema_version,
            "command": self.command,
            "environment": dataclasses.asdict(self.environment),
        }
        records = ",\n".join("{\n" + _fields(plain(record), "  ") + "\n }" for record in self.records)
        return "{\n" + _fields(head, " ") + ',\n "records": [' + records + "]\n}\n"


def join_commands(commands: Iterable[str | None]) -> str | None:
    """The commands that made what is shown as one, each once."""
    return JOINT.join(dict.fromkeys(command for command in commands if command)) or None


def join_environments(environments: Sequence[Environment]) -> Environment:
    """The first of those that are shown as one, with the commits of all of them."""
    commits = dict.fromkeys(one.commit for one in environments if one.commit)
    return dataclasses.replace(environments[0], commit=", ".join(commits) or None)


def read_run_file(path: Path) -> RunFile:
    """The records of a JSON file.

    Raises: UsageError when the file cannot be read, is not a record file, or comes from a newer schema.
    """
    return read_json(path, _run_file)


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all: a temporary neighbour is written, synced and renamed; text is UTF-8.

    Raises: UsageError that names the file when it cannot be written.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from error
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from error
    except UnicodeEncodeError as error:  # a name from the command line whose bytes are not UTF-8
        raise UsageError(f"{path}: cannot be written: {error.object[error.start]!a} is no character") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def read_head(values: Any, rows: str) -> tuple[Environment, str | None]:
    """The environment and the command of a parsed file whose records are the list `rows`.

    Raises: UsageError when that list or the version is missing, or the file comes from a newer schema.
    """
    if not isinstance(values, dict) or rows not in values or "schema_version" not in values:
        raise UsageError(f"not a record file: it has no 'schema_version' and '{rows}'")
    version = values["schema_version"]
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise UsageError(f"not a record file: schema_version {version!r} is not a whole number from 1")
    if version > SCHEMA_VERSION:
        raise UsageError(f"written by a newer muse-bench (schema {version}, this one reads {SCHEMA_VERSION}): upgrade")
    environment = known_fields(Environment, values.get("environment", {}))
    environment.setdefault("muse_bench", "unknown")
    check_values(Environment, environment)
    if not re.fullmatch(r"\d{1,3}\.\d{1,3}", environment.get("compute_capability") or "8.6", re.ASCII):
        raise UsageError(f"'compute_capability' is {environment['compute_capability']!r:.60}: it is written as 8.6")
    if not isinstance(values.get("command"), str | None):
        raise UsageError("not a record file: its command is not text")
    return Environment(**environment), values.get("command")


def _run_file(values: Any) -> RunFile:
    environment, command = read_head(values, "records")
    records = tuple(Record.from_json(record) for record in listed("records", values["records"]))
    return RunFile(environment=environment, records=records, command=command)


def _fields(values: dict[str, Any], indent: str) -> str:
    return ",\n".join(f"{indent}{json.dumps(name)}: {json.dumps(v, allow_nan=False)}" for name, v in values.items())


def plain(record: Record) -> dict[str, Any]:
    """A record as plain values; the many small ledgers of modules and timeline leave out the parts that are zero."""
    values = dataclasses.asdict(record)
    if record.case_id is None:
        del values["case_id"]
    if not record.repeats:
        del values["repeats"]
    for name in ("modules", "timeline"):
        for row in values[name]:
            row["ledger"] = {part: size for part, size in row["ledger"].items() if size}
            if row.get("source", "") is None:
                del row["source"]
    return values


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _proof(values: dict[str, Any]) -> Proof:
    if not isinstance(values, dict):
        raise UsageError("a proof is not a JSON object")
    known = {f.name: values[f.name] for f in dataclasses.fields(Proof) if f.name in values}
    for name in ("cap_bytes", "ran", "steps"):
        if name not in known:
            raise UsageError(f"a proof lacks the field '{name}'")
    check_values(Proof, known)
    return Proof(**known)
