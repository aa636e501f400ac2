"""Signals that end a run in order: what is finished is kept, and its workers end with it."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from muse_bench.errors import ExitCode

STOPS = {"SIGTERM": ExitCode.TERMINATED, "SIGHUP": ExitCode.HUNG_UP}


class Stopped(SystemExit):
    """The run was told to end; its exit code says by which signal."""


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Raises Stopped where the program is when it is told to end; a signal that it is to ignore stays ignored."""
    if threading.current_thread() is not threading.main_thread():  # which alone may say what a signal does
        yield
        return
    codes = {getattr(signal, name): code for name, code in STOPS.items() if hasattr(signal, name)}

    def stop(number: int, _: FrameType | None) -> None:
        for other in codes:
            signal.signal(other, signal.SIG_IGN)  # a second one would break the tidying up
        raise Stopped(codes[signal.Signals(number)])

    before = {number: signal.getsignal(number) for number in codes}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
