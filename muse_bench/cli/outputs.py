"""The files of `--output`: checked before anything runs, and written whole."""

import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Generic

from muse_bench.errors import UsageError
from muse_bench.record import write_whole
from muse_bench.report import Format, Run, document, format_of


class Outputs(Generic[Run]):
    """The files that a run's records go to, each in the format of `choices` that its suffix picks.

    Raises: UsageError, on creation, for a suffix that no format has, for one whose renderer is not installed, and for a
    place that cannot be written.
    """

    def __init__(self, paths: Sequence[Path], choices: Iterable[Format[Run]]) -> None:
        known = tuple(choices)
        self._files = [(path, format_of(path, known)) for path in paths]
        for path, known_format in self._files:
            known_format.check()
            check_writable(path)

    @property
    def records(self) -> Path | None:
        """The first record file; None when there is none."""
        return next((path for path, known in self._files if known.name == "json"), None)

    def save(self, run: Run) -> None:
        """Writes the record files alone, so that finished cases are on disk whatever comes next."""
        for path, known in self._files:
            if known.name == "json":
                write_whole(path, known.render(run))

    def write(self, *runs: Run) -> None:
        """Writes every file; the texts first, so that a format which refuses the runs leaves nothing behind."""
        texts = [(path, document(known, runs)) for path, known in self._files]
        for path, text in texts:
            write_whole(path, text)


def check_writable(path: Path) -> None:
    """Raises: UsageError when a file cannot be written there."""
    if path.is_dir():
        raise UsageError(f"{path}: cannot be written: it is a folder")
    if path.exists() and not os.access(path, os.W_OK):
        raise UsageError(f"{path}: cannot be written: Permission denied")
    try:
        with tempfile.TemporaryFile(dir=path.parent):  # mode bits alone do not tell: read-only mounts, /proc
            pass
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from error


def embedded(path: Path, name: str, section: str) -> str:
    """The file's text with the section between its markers.

    Raises: UsageError when it cannot be read or has no markers of that name.
    """
    begin, end = (f"<!-- muse-bench: {word} {name} -->" for word in ("begin", "end"))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise UsageError(f"{path}: has no lines '{begin}' and '{end}' to put the Markdown between")
    return f"{before}{begin}\n{section}{end}{after}"
