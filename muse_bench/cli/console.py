"""The two consoles that commands print to: tables on stdout, progress and errors on stderr."""

import os
import sys

import typer
from rich.console import Console

UNKNOWN_WIDTH = 120


class _Output(Console):
    """A console that says when nobody reads it; Rich would end the process as if a verdict were FAIL."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def stdout() -> Console:
    """For results. Nothing is read as markup: names come from users and from files."""
    streams = (sys.stdin, sys.stdout, sys.stderr)
    blind = "COLUMNS" not in os.environ and not any(stream is not None and stream.isatty() for stream in streams)
    return _Output(markup=False, emoji=False, highlight=False, soft_wrap=False, width=UNKNOWN_WIDTH if blind else None)


def stderr() -> Console:
    """For progress."""
    return Console(stderr=True, markup=False, emoji=False, highlight=False)


def complain(message: str) -> None:
    """One line on stderr, whatever the message holds."""
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(message.split()))
    typer.echo(f"muse-bench: {line}", err=True)
