"""Cases measured on several GPUs at once: a runner each, which take the next case when they are free."""

import contextlib
import queue
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Literal, Self

from muse_bench.config import Case
from muse_bench.execution.fill import noted
from muse_bench.execution.runner import Runner
from muse_bench.record import Environment, Record


class SideBySide:
    """A context manager around runners of GPUs of one model. On entry `backend` is settled, as theirs.

    Raises: UsageError as the runners do.
    """

    backend: Literal["cuda", "predict"]

    def __init__(self, runners: Sequence[Runner]) -> None:
        self._runners = tuple(runners)
        self._entered = contextlib.ExitStack()
        self._threads: list[threading.Thread] = []
        self._over = threading.Event()

    def __enter__(self) -> Self:
        for runner in self._runners:
            runner.start()  # all import torch at the same time
        with contextlib.ExitStack() as entered:
            for runner in self._runners:
                entered.enter_context(runner)
            self._entered = entered.pop_all()
        self.backend = self._runners[0].backend
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for runner in self._runners:
            runner.stop()
        for thread in self._threads:
            thread.join()
        self._entered.close()

    @property
    def environment(self) -> Environment:
        """What the runners know by now; they are on GPUs of one model."""
        known = [runner.environment for runner in self._runners]
        return next((one for one in known if one.gpu_total_bytes is not None), known[0])

    def run(self, cases: Sequence[Case]) -> Iterator[tuple[int, Record]]:
        """The place of each case and its record, as they finish. Raises: UsageError as a runner does."""
        asked: queue.SimpleQueue[tuple[int, Case]] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[int, Record | BaseException]] = queue.SimpleQueue()
        for place, case in enumerate(cases):
            asked.put((place, case))
        for runner in self._runners:
            thread = threading.Thread(target=self._serve, args=(runner, asked, done), name="runner", daemon=True)
            self._threads.append(thread)
            thread.start()
        for _ in cases:
            place, found = done.get()
            if isinstance(found, BaseException):
                raise found
            yield place, self._with_note(found)

    def _serve(
        self,
        runner: Runner,
        asked: "queue.SimpleQueue[tuple[int, Case]]",
        done: "queue.SimpleQueue[tuple[int, Record | BaseException]]",
    ) -> None:
        """Runs cases until none is left, or one is the user's to mend."""
        with contextlib.suppress(queue.Empty):
            while not self._over.is_set():
                place, case = asked.get_nowait()
                try:
                    (record,) = runner.run([case])
                except BaseException as error:  # goes on in the thread that waits for the record
                    done.put((place, error))
                    return
                done.put((place, record))

    def _with_note(self, record: Record) -> Record:
        others = len(self._runners) - 1
        if not others:
            return record
        return noted(record, f"timed beside cases on {others} other GPU{'s' * (others > 1)}: the host is shared")
