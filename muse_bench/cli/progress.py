"""The progress bar of a run: which case, what it is doing, how many are done, since when."""

from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from muse_bench.cli import console
from muse_bench.execution.runner import Progress as CaseProgress
from muse_bench.report.words import plain


class ProgressBar:
    """A context manager around a run. It draws on stderr, only on a terminal, and leaves nothing behind."""

    def __init__(self, total: int) -> None:
        screen = console.stderr()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=screen,
            transient=True,
            disable=not screen.is_terminal,
        )
        self._doing: dict[str | None, str] = {}  # by device, of several
        self._task = self._bar.add_task("starting", total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def phase(self, progress: CaseProgress) -> None:
        """Shows what the cases at work are doing."""
        self._doing[progress.device] = f"{progress.case.model}: {progress.phase}"
        self.say("; ".join(self._doing.values()))

    def say(self, text: str) -> None:
        """Shows a line of text."""
        self._bar.update(self._task, description=plain(text))

    def finished(self) -> None:
        """Counts one case more."""
        self._bar.advance(self._task)
