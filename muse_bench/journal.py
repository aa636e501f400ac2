"""The journal of a run: each finished case is a line on disk at once, so that a run that broke off can go on.

It lies beside the JSON output for as long as the run is not over. Its first line says which run it is, as later ones do
when more of the GPU is known; each of the others is a record, as the JSON output will hold it.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from muse_bench.config import Case
from muse_bench.errors import UsageError
from muse_bench.file_lock import sync_folder, try_lock
from muse_bench.origin import Origin
from muse_bench.record import Environment, Provenance, Record, plain, read_run_file

SUFFIX = ".jsonl"
RESUME = "--resume"
BEGINNING = b'{"schema_version": '
NO_JOURNAL = "no journal of muse-bench: move it away, or name another --output"
RESULTS = ("ok", "oom")  # a case that ended otherwise runs again


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
        if not self._is_ours(self.path):
            self._stream.close()
            raise UsageError(f"{self.path}: another run is writing it: wait for it, or name another --output")
        try:
            self._read()
        except BaseException:
            if not os.fstat(self._stream.fileno()).st_size:
                self.path.unlink(missing_ok=True)
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
        with contextlib.suppress(OSError):  # of a line that could not be written, which has been said
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
        self._origin = origin if earlier is None else earlier.joined(origin.environment)
        self._write(self._origin.to_json())
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
        before = self.origin
        self._origin = before.joined(environment)
        if self._origin != before:
            self._check(dataclasses.replace(before, environment=environment), before)
            self._write(self._origin.to_json())

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

    def _is_ours(self, path: Path) -> bool:
        """Whether this process alone has the file, and another that was over has not removed it meanwhile."""
        handle = self._stream.fileno()
        return try_lock(handle) and path.exists() and os.path.samestat(os.fstat(handle), os.stat(path))

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
                self._origin = Origin.from_json(values)
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
        if record.case_id is not None and not record.repeats:  # several runs in one are none of them
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
