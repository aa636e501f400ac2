"""Saved records, as commands need them."""

from pathlib import Path

from muse_bench.analysis.difference import match
from muse_bench.errors import UsageError
from muse_bench.record import RunFile, read_run_file


def read_records(path: Path) -> RunFile:
    """The records of a file. Raises: UsageError, with its name, when there are none."""
    run = read_run_file(path)
    if not run.records:
        raise UsageError(f"{path}: holds no records")
    return run


def read_cases(path: Path) -> RunFile:
    """The records of a file. Raises: UsageError, with its name, when there are none or a case is there twice."""
    run = read_records(path)
    try:
        match(run.records, ())
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    return run
