"""One family of errors; each carries the exit code that the command line returns for it."""

import enum


class ExitCode(enum.IntEnum):
    """What a command's exit status means."""

    OK = 0
    FAIL = 1
    USAGE = 2
    INCONCLUSIVE = 3
    CASE_FAILED = 4
    HUNG_UP = 129
    INTERRUPTED = 130
    PIPE_CLOSED = 141
    TERMINATED = 143


class MuseBenchError(Exception):
    """A problem that the user can act on: its message is one line that says what would be right."""

    exit_code = ExitCode.USAGE


class UsageError(MuseBenchError):
    """A wrong option, model, size, file or name."""


class UntraceableModel(MuseBenchError):  # noqa: N818
    """A model that cannot be traced without a GPU; names the operation and where it is called."""

    exit_code = ExitCode.CASE_FAILED


class DtypesDiffer(MuseBenchError):  # noqa: N818
    """An operation that autocast gives tensors of a dtype that it does not take beside its weights."""

    exit_code = ExitCode.CASE_FAILED


class HostMemoryShort(MuseBenchError):  # noqa: N818
    """Host memory that the machine does not have: how much was needed, is available and would fit, in bytes."""

    exit_code = ExitCode.CASE_FAILED

    def __init__(
        self, message: str, *, needed_bytes: int, available_bytes: int | None, fitting_bytes: int | None
    ) -> None:
        super().__init__(message)
        self.needed_bytes = needed_bytes
        self.available_bytes = available_bytes
        self.fitting_bytes = fitting_bytes

    def with_hint(self, hint: str) -> "HostMemoryShort":
        """The same, and what would do."""
        sizes = {"needed_bytes": self.needed_bytes, "available_bytes": self.available_bytes}
        return HostMemoryShort(f"{self}; {hint}", **sizes, fitting_bytes=self.fitting_bytes)  # type: ignore[arg-type]
