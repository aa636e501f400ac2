"""One worker process as the runner sees it: started early, asked once or more, ended whatever it does."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

from muse_bench.execution.protocol import TIMING, Hello, Result
from muse_bench.execution.tail import Tail

START_SECONDS = 300.0
LOOK_SECONDS = 1.0  # between two looks at whether a process that says nothing is there at all
CASES = "muse_bench.execution.worker"


class WorkerDied(Exception):  # noqa: N818
    """The process ended or went silent before it answered; the message says how."""


class WorkerProcess:
    """A process that runs a worker module. `environment` is added to this process's own.

    It leads a group of its own, and whatever it has started ends with it. What it prints is read and forgotten, but
    for the last line, which says why it died.
    """

    def __init__(self, environment: dict[str, str | None], module: str = CASES) -> None:
        variables = {**os.environ, **{k: v for k, v in environment.items() if v is not None}}
        for name in (name for name, value in environment.items() if value is None):
            variables.pop(name, None)
        self._stderr = Tail()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr.descriptor,
                env=variables,
                text=True,
                encoding="utf-8",
                start_new_session=True,  # a Ctrl-C reaches the runner alone, which then ends its workers
            )
        finally:
            self._stderr.handed_over()
        self._hello: Hello | None = None
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

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
        if self._process.returncode is None and hasattr(signal, name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, getattr(signal, name))

    def close(self) -> None:
        """Ends the process at once, with all that it has started, and forgets what it said."""
        self.kill()
        self._process.wait()
        self._reader.join(LOOK_SECONDS)
        for stream in (self._process.stdin, None if self._reader.is_alive() else self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):  # a request was still in the pipe when the process ended
                    stream.close()

    def kill(self) -> None:
        """Kills the process and all that it has started, whatever waits for it.

        Their group has the process's number for as long as nobody has asked how that ended.
        """
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _next(self, deadline: float | None, allowed: float | None = START_SECONDS) -> dict[str, Any]:
        line = self._next_line(deadline, allowed)
        if line is None:
            raise WorkerDied(self._how_it_ended())
        try:
            return cast(dict[str, Any], json.loads(line))
        except ValueError:
            self.kill()
            raise WorkerDied(f"the worker process answered what is no answer: {line.strip():.60}") from None

    def _next_line(self, deadline: float | None, allowed: float | None) -> str | None:
        """The next line of the answers; None when the process has ended, even if what it started holds them open."""
        gone = False
        while True:
            left = LOOK_SECONDS if deadline is None else min(LOOK_SECONDS, max(0.0, deadline - time.monotonic()))
            try:
                return self._lines.get(timeout=left)
            except queue.Empty:
                if gone:
                    return None
                if deadline is not None and time.monotonic() >= deadline:
                    self.kill()
                    raise WorkerDied(f"timed out after {allowed:g} s") from None
                gone = self._has_ended()  # once more: its last line may have come since

    def _has_ended(self) -> bool:
        """Whether the process has ended; how it did is not asked yet."""
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return self._process.returncode is not None or os.waitid(os.P_PID, self._process.pid, how) is not None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _how_it_ended(self) -> str:
        """In words. One that has closed its answers and goes on is given a moment, and is then killed."""
        deadline = time.monotonic() + LOOK_SECONDS
        while not self._has_ended() and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS / 100)
        self.kill()
        status = self._process.wait()
        how = f"killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
        tail = self._stderr.last_line()
        return f"the worker process was {how}" + (f": {tail}" if tail else "")
