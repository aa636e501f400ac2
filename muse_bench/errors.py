"""One family of errors; each carries the exit code that the command line returns for it."""

import enum


class ExitCode(enum.IntEnum):
    """What a command's exit status means."""

    OK = 0
    FAIL = 1
    USAGE = 2
    INCONCLUSIVE = 3
    CASE_FAILED = 4
    INTERRUPTED = 130


class MuseBenchError(Exception):
    """A problem that the user can act on: its message is one line that says what would be right."""

    exit_code = ExitCode.USAGE


class UsageError(MuseBenchError):
    """A wrong option, model, size, file or name."""


class UntraceableModel(MuseBenchError):  # noqa: N818
    """A model that cannot be traced without a GPU; names the operation and where it is called."""

    exit_code = ExitCode.CASE_FAILED
