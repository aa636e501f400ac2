"""One worker process as the runner sees it: started early, asked once or more, ended whatever it does."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

from muse_bench.execution.protocol import TIMING, Hello, Result

STDERR_TAIL_BYTES = 2_000
START_SECONDS = 300.0
CASES = "muse_bench.execution.worker"


class WorkerDied(Exception):  # noqa: N818
    """The process ended or went silent before it answered; the message says how."""


class WorkerProcess:
    """A process that runs a worker module. `environment` is added to this process's own."""

    def __init__(self, environment: dict[str, str | None], module: str = CASES) -> None:
        variables = {**os.environ, **{k: v for k, v in environment.items() if v is not None}}
        for name in (name for name, value in environment.items() if value is None):
            variables.pop(name, None)
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=variables,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # a Ctrl-C reaches the runner alone, which then ends its workers
        )
        self._hello: Hello | None = None
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def hello(self) -> Hello:
        """Waits, the first time, until the process can take a request; says what it can do.

        Raises: WorkerDied when it ends or says nothing within START_SECONDS.
        """
        if self._hello is None:
            self._hello = cast(Hello, self._next(time.monotonic() + START_SECONDS))
        return self._hello

    def ask(
        self, request: Mapping[str, object], timeout_seconds: float | None, on_phase: Callable[[str], None]
    ) -> Result:
        """Sends a request and waits for its result.

        Raises: WorkerDied when the process ends, or says nothing final within timeout_seconds; it is killed then.
        """
        self.hello()
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        self._write(request)
        while True:
            message = self._next(deadline, timeout_seconds)
            if message["kind"] == "result":
                return cast(Result, message)
            on_phase(message["text"])
            if message["text"] == TIMING:
                self._write({})  # it waits until whoever watches it has stopped

    def pause(self) -> None:
        """Stops the process where it is, until `resume`; where processes cannot be stopped it goes on."""
        self._signal("SIGSTOP")

    def resume(self) -> None:
        """Lets a stopped process go on."""
        self._signal("SIGCONT")

    def _write(self, message: Mapping[str, object]) -> None:
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise WorkerDied(self._how_it_ended()) from error

    def _signal(self, name: str) -> None:
        if self._process.poll() is None and hasattr(signal, name):
            self._process.send_signal(getattr(signal, name))

    def kill(self) -> None:
        """Ends the process at once, whatever waits for it."""
        if self._process.poll() is None:
            self._process.kill()

    def close(self) -> None:
        """Ends the process at once, and forgets what it said."""
        self.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):  # a request was still in the pipe when the process ended
                    stream.close()

    def _next(self, deadline: float | None, allowed: float | None = START_SECONDS) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            self._process.kill()
            raise WorkerDied(f"timed out after {allowed:g} s") from None
        if line is None:
            raise WorkerDied(self._how_it_ended())
        return cast(dict[str, Any], json.loads(line))

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _how_it_ended(self) -> str:
        status = self._process.wait()
        how = f"killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
        tail = self._stderr_tail()
        return f"the worker process was {how}" + (f": {tail}" if tail else "")

    def _stderr_tail(self) -> str:
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - STDERR_TAIL_BYTES))
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else ""
