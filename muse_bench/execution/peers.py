"""Asks other predictors about cases, in a worker of their own: what breaks them breaks no prediction."""

import dataclasses
from collections.abc import Callable
from types import TracebackType
from typing import Self

from muse_bench.config import Case
from muse_bench.execution.process import WorkerDied, WorkerProcess
from muse_bench.execution.protocol import Request
from muse_bench.record import PEERS, Record


class PeerWorker:
    """A context manager around the worker that other predictors run in; a new one follows one that dies."""

    def __init__(self, timeout_seconds: float | None = None) -> None:
        self._timeout_seconds = timeout_seconds
        self._worker: WorkerProcess | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def ask(self, record: Record, case: Case, say: Callable[[str], None]) -> Record:
        """The case's record with what each of them answers; a reason in its notes where one does not."""
        if self._worker is None:
            self._worker = WorkerProcess({})
        try:
            result = self._worker.ask(Request(task="peers", case=case.to_json()), self._timeout_seconds, say)
        except WorkerDied as error:
            self._close()
            return _without_answers(record, str(error))
        if result["status"] != "ok":
            return _without_answers(record, str(result["reason"]))
        values = result["values"]
        return dataclasses.replace(record, peers=values["peers"], notes=(*record.notes, *values["notes"]))

    def _close(self) -> None:
        if self._worker is not None:
            self._worker.close()
        self._worker = None


def _without_answers(record: Record, reason: str) -> Record:
    notes = (f"{name}: no answer: {reason}" for name in PEERS)
    return dataclasses.replace(record, peers=dict.fromkeys(PEERS), notes=(*record.notes, *notes))
