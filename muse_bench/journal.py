"""The journal of a run: each finished case is a line on disk at once, so that a run that broke off can go on.

It lies beside the JSON output for as long as the run is not over. Its first line says which run it is, as later ones do
when more of the GPU is known; each of the others is a record, as the JSON output will hold it.
"""

import dataclasses
import json
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from muse_bench.config import Case
from muse_bench.errors import UsageError
from muse_bench.file_lock import sync_folder, try_lock
from muse_bench.record import (
    SCHEMA_VERSION,
    Environment,
    Provenance,
    Record,
    plain,
    read_head,
    read_run_file,
)

SUFFIX = ".jsonl"
RESUME = "--resume"
BEGINNING = b'{"schema_version": '
NO_JOURNAL = "no journal of muse-bench: move it away, or name another --output"
RESULTS = ("ok", "oom")  # a case that ended otherwise runs again
PROOFS = ("--prove", "--bisect")  # they add to records, and to no case
# What the figures of a case may depend on; where one is not known, it is not compared.
COMPARED = (
    "gpu",
    "torch",
    "triton",
    "cuda",
    "driver",
    "allocator_config",
    "cublas_workspace_config",
    "muse_bench",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The run that records come from; what goes on with it has to be alike."""

    environment: Environment
    backend: str
    command: str | None

    def difference(self, other: Self) -> str | None:
        """What the other run is that this one is not; None when they are alike."""
        ours, theirs = _words(self.command), _words(other.command)
        if ours[1:2] != theirs[1:2]:
            return f"by '{' '.join(theirs[:2])}'"
        for option in PROOFS:
            if (option in ours) != (option in theirs):
                return f"{'with' if option in theirs else 'without'} {option}"
        if self.backend != other.backend:
            return f"with --backend {other.backend}, and this is {self.backend}"
        for name in COMPARED:
            here, there = getattr(self.environment, name), getattr(other.environment, name)
            if here != there and here is not None and there is not None:
                return f"with {name.replace('_', ' ')} '{there}', and here it is '{here}'"
        return None


def _words(command: str | None) -> list[str]:
    return shlex.split(command or "")


class Journal:
    """A context manager around a run: holds its finished cases, and goes when the run is over.

    Args:
        results: the JSON output; None for a run that has none, of which nothing is kept.
        resume: go on with the journal that is there or, without one, with the records of that output.
    Raises: UsageError, on entry, for a file in the journal's place that is none, for one that another run is writing,
    and for finished cases in it that nobody asked to go on with.
    """

    def __init__(self, results: Path | None, *, resume: bool) -> None:
        if resume and results is None:
            raise UsageError(f"{RESUME} goes on with the records of a .json output: add --output FILE.json")
        self._results, self._resumes = results, resume
        self.path = None if results is None else results.with_suffix(SUFFIX)
        self._stream: Any = None
        self._origin: Origin | None = None  # as the file says it
        self._kept: dict[tuple[str, Provenance], Record] = {}
        self._adopted = False  # from the JSON output, and not in the file yet
        self._holds = False
        self._over = False

    def __enter__(self) -> Self:
        if self.path is None:
            return self
        try:
            self._stream = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be written: {error.strerror or error}") from error
        try:
            if not try_lock(self._stream.fileno()):
                raise UsageError(f"{self.path}: another run is writing it: wait for it, or name another --output")
            self._read()
        except BaseException:
            self._stream.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is None or self.path is None:
            return
        if self._over or not self._holds:
            self.path.unlink(missing_ok=True)
        self._stream.close()

    def begin(self, origin: Origin, asked: Callable[[Record], bool]) -> None:
        """Starts the file, or goes on with it.

        Raises: UsageError when what it holds comes from elsewhere, or is not `asked` for.
        """
        earlier = self._origin
        if earlier is not None:
            self._check(origin, earlier)
        for record in self._kept.values():
            if not asked(record):
                raise UsageError(
                    f"{self._source}: holds {record.model}, {record.mode}, batch {record.batch}, seq {record.seq}, "
                    f"which is not among the cases asked for here: name another --output, or leave out {RESUME}"
                )
        command = origin.command if earlier is None else earlier.command
        self._origin = dataclasses.replace(
            origin, environment=_joined(earlier, origin.environment), command=command or origin.command
        )
        self._write(_head(self._origin))
        if self._adopted:
            for record in self._kept.values():
                self._write(plain(record))
        self._holds = self._holds or self._adopted

    def find(self, case: Case, provenance: Provenance) -> Record | None:
        """The record of a case that need not run again."""
        record = self._kept.get((case.identity, provenance))
        return record if record is not None and record.status in RESULTS else None

    def learn(self, environment: Environment) -> None:
        """Takes what the run by now knows of its environment. Raises: UsageError when that is another one."""
        origin = self.origin
        known = _joined(origin, environment)
        if known != origin.environment:
            self._check(dataclasses.replace(origin, environment=environment), origin)
            self._origin = dataclasses.replace(origin, environment=known)
            self._write(_head(self._origin))

    def add(self, record: Record) -> None:
        """Puts a record on disk."""
        self._write(plain(record))
        self._holds = True

    @property
    def origin(self) -> Origin:
        """What the records are from, all that was gone on with included."""
        assert self._origin is not None  # begun
        return self._origin

    def end(self) -> None:
        """The run is over and its outputs are written: there is nothing left to go on with."""
        self._over = True

    @property
    def _source(self) -> Path | None:
        return self._results if self._adopted else self.path

    def _check(self, ours: Origin, theirs: Origin) -> None:
        if (difference := ours.difference(theirs)) is not None:
            raise UsageError(f"{self._source}: was begun {difference}: go on as it was begun, or name another --output")

    def _read(self) -> None:
        """Takes what the file holds, less a last line that was cut off; without any, what the JSON output holds."""
        text = self._stream.read()
        whole = text.rfind(b"\n") + 1
        if not whole and text[: len(BEGINNING)] != BEGINNING[: len(text)]:
            raise UsageError(f"{self.path}: {NO_JOURNAL}")
        for number, line in enumerate(text[:whole].splitlines(), start=1):
            self._take(line, number)
        if not self._resumes:
            self._refuse_to_lose(sum(record.status in RESULTS for record in self._kept.values()))
            whole, self._origin, self._kept = 0, None, {}
        self._holds = bool(self._kept)
        if self._resumes and not whole:
            self._adopt()
        self._stream.truncate(whole)
        self._stream.seek(whole)

    def _refuse_to_lose(self, finished: int) -> None:
        if finished:
            raise UsageError(
                f"{self.path}: holds {finished} finished case{'s' * (finished != 1)} of a run that broke off: "
                f"add {RESUME} to go on with it, or delete it to begin anew"
            )

    def _take(self, line: bytes, number: int) -> None:
        try:
            values = json.loads(line)
            if number == 1 or "schema_version" in values:
                environment, command = read_head({**values, "records": []}, "records")
                self._origin = Origin(environment=environment, backend=str(values["backend"]), command=command)
            else:
                self._keep(Record.from_json(values))
        except UsageError as error:
            raise UsageError(f"{self.path}: line {number}: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UsageError(f"{self.path}: line {number}: {NO_JOURNAL}") from error

    def _adopt(self) -> None:
        if self._results is None or not self._results.exists():
            return
        run = read_run_file(self._results)
        for record in run.records:
            self._keep(record)
        if self._kept:
            backend = "cuda" if any(record.provenance == "measured" for record in run.records) else "predict"
            self._origin = Origin(environment=run.environment, backend=backend, command=run.command)
            self._adopted = True

    def _keep(self, record: Record) -> None:
        if record.case_id is not None:
            self._kept[record.case_id, record.provenance] = record

    def _write(self, values: dict[str, Any]) -> None:
        """One line, on disk when this returns."""
        if self._stream is None:
            return
        assert self.path is not None
        try:
            self._stream.write(json.dumps(values, allow_nan=False).encode() + b"\n")
            self._stream.flush()
            os.fsync(self._stream.fileno())
            if not self._holds:
                sync_folder(self.path.parent)
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be written: {error.strerror or error}") from error


def _head(origin: Origin) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "command": origin.command,
        "backend": origin.backend,
        "environment": dataclasses.asdict(origin.environment),
    }


def _joined(earlier: Origin | None, environment: Environment) -> Environment:
    """What is known of the environment by now, with the commits of all parts of the run."""
    if earlier is None:
        return environment
    known = {name: value for name, value in dataclasses.asdict(environment).items() if value is not None}
    ours = dataclasses.replace(earlier.environment, **known)
    commits = [name for one in (earlier.environment, environment) for name in (one.commit or "").split(", ") if name]
    return dataclasses.replace(ours, commit=", ".join(dict.fromkeys(commits)) or None)
