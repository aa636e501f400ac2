"""The end of what a process prints: all of it is read, so that it never waits, and only the last of it is kept."""

import os
import threading

TAIL_BYTES = 2_000
PIECE_BYTES = 1 << 16  # what a pipe of Linux holds
LAST_WORDS_SECONDS = 1.0  # a process that it left behind may hold the pipe open for good


class Tail:
    """A pipe whose writing end, `descriptor`, is for one process. Takes TAIL_BYTES and a piece, however much comes."""

    def __init__(self) -> None:
        self._source, self.descriptor = os.pipe()
        self._kept = b""
        self._thread = threading.Thread(target=self._read, name="worker-stderr", daemon=True)
        self._thread.start()

    def handed_over(self) -> None:
        """Closes this process's own copy of the writing end, so that the last one that prints ends the pipe."""
        os.close(self.descriptor)

    def last_line(self) -> str:
        """The last line that was printed, stripped; empty without one. Waits a moment for what is on its way."""
        self._thread.join(LAST_WORDS_SECONDS)
        lines = self._kept.decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else ""

    def _read(self) -> None:
        while piece := os.read(self._source, PIECE_BYTES):
            self._kept = (self._kept + piece)[-TAIL_BYTES:]
        os.close(self._source)
