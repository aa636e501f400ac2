"""The processes of one runner: those that wait for their request, the one that works, and one kept for the next case.

Imports no torch: the processes do, and while one measures the next ones import already, for that takes them longer than
most cases run.
"""

import collections
import os
import threading
from collections.abc import Callable

from muse_bench.execution.process import WorkerDied, WorkerProcess
from muse_bench.execution.protocol import Request, Result

SPARES = max(1, min(4, (os.cpu_count() or 1) // 4))


class Pool:
    """Starts processes with the same variables, and ends every one of them."""

    def __init__(self, variables: dict[str, str | None]) -> None:
        self.variables = variables
        self.stopped = False
        self._stopping = threading.Lock()
        self._busy: WorkerProcess | None = None
        self._spares: collections.deque[WorkerProcess] = collections.deque()
        self._shared: WorkerProcess | None = None  # has the model of the case before

    def first(self) -> WorkerProcess:
        """The process whose turn is next, started if there is none."""
        if not self._spares:
            self._spares.append(WorkerProcess(self.variables))
        return self._spares[0]

    def send(
        self,
        request: Request,
        timeout_seconds: float | None,
        say: Callable[[str], None],
        watch: Callable[[int], None] = lambda _: None,
    ) -> Result:
        """Asks the process that was kept, or one that has done nothing yet, and then starts the next one meanwhile.

        `watch` is told the process's id. Raises: WorkerDied.
        """
        worker, self._shared, keeps = self._shared or self._fresh(), None, False
        try:
            with self._stopping:
                if self.stopped:
                    raise WorkerDied("it was stopped")
                self._busy = worker
            watch(worker.pid)
            result = worker.ask(request, timeout_seconds, say)
            keeps = bool(request.get("keeps")) and result["status"] == "ok"
            return result
        finally:
            with self._stopping:
                self._busy = None
            if keeps:
                self._shared = worker
            else:
                worker.close()

    def pause(self) -> None:
        """Stills those that wait: importing, they would slow a step that launches many kernels."""
        for spare in self._spares:
            spare.pause()

    def resume(self) -> None:
        """Lets those that wait go on."""
        for spare in self._spares:
            spare.resume()

    def stop(self) -> None:
        """Ends, from another thread, the process that works, and has none work after it."""
        with self._stopping:
            self.stopped = True
            if self._busy is not None:
                self._busy.kill()

    def close(self) -> None:
        """Ends those that wait and the one that was kept."""
        while self._spares:
            self._spares.popleft().close()
        if self._shared is not None:
            self._shared.close()
            self._shared = None

    def _fresh(self) -> WorkerProcess:
        worker = self.first()
        self._spares.popleft()
        worker.hello()
        while len(self._spares) < SPARES:
            self._spares.append(WorkerProcess(self.variables))
        return worker
