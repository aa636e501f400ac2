"""Cases run with a journal: those that it has finished are taken from it, the others are put into it."""

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence

from muse_bench.cli.options import RunOptions
from muse_bench.cli.outputs import Outputs
from muse_bench.config import Case
from muse_bench.errors import UsageError
from muse_bench.execution.runner import Runner
from muse_bench.execution.side_by_side import SideBySide
from muse_bench.journal import RESUME, Journal
from muse_bench.origin import Origin
from muse_bench.record import Provenance, Record, RunFile
from muse_bench.report import Run

AnyRunner = Runner | SideBySide


def command_line() -> str:
    """The command that this process was started with, as one that begins anew."""
    return shlex.join(["muse-bench", *(word for word in sys.argv[1:] if word != RESUME)])


def open_journal(outputs: Outputs[Run], options: RunOptions) -> Journal:
    """The journal beside the first JSON output."""
    return Journal(outputs.records, resume=options.resume)


def begin(journal: Journal, runner: AnyRunner, asked: Callable[[Record], bool]) -> None:
    """Starts the journal of what the runner is to run, or goes on with it. Raises: UsageError as Journal.begin."""
    journal.begin(
        Origin(environment=runner.environment, backend=runner.backend, command=command_line()),
        asked,
    )


def among(cases: Sequence[Case]) -> Callable[[Record], bool]:
    """Whether a record is of one of the cases."""
    identities = {case.identity for case in cases}
    return lambda record: record.case_id in identities


def provenance(runner: AnyRunner) -> Provenance:
    """What the runner's records are."""
    return "measured" if runner.backend == "cuda" else "predicted"


def run_journaled(
    runner: AnyRunner, cases: Sequence[Case], journal: Journal, complete: Callable[[Record], Record] = lambda one: one
) -> Iterator[tuple[int, Record]]:
    """The place and record of each case: first those that the journal has, then the others as they finish.

    `complete` adds to a new record what the journal is to hold of it too.
    """
    left: list[int] = []
    for place, case in enumerate(cases):
        known = journal.find(case, provenance(runner))
        if known is None:
            left.append(place)
        else:
            yield place, known
    if not left:
        return
    todo = [cases[place] for place in left]
    for index, record in runner.run(todo) if isinstance(runner, SideBySide) else enumerate(runner.run(todo)):
        finished = complete(record)
        try:
            journal.add(finished)
        except UsageError:
            yield left[index], finished  # it can be shown, if it cannot be kept
            raise
        yield left[index], finished


def run_one(runner: AnyRunner, case: Case, journal: Journal) -> Record:
    """The record of one case, by the journal or by the runner."""
    ((_, record),) = run_journaled(runner, [case], journal)
    return record


def run_file(journal: Journal, runner: AnyRunner, records: Sequence[Record]) -> RunFile:
    """The records of a run on the runner's GPU, and of what it went on with."""
    journal.learn(runner.environment)
    origin = journal.origin
    return RunFile(environment=origin.environment, records=tuple(records), command=origin.command)
