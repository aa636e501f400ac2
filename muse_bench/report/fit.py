"""The verdicts of several records for the terminal: what the device needs, what is left, what takes the most."""

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from muse_bench.analysis.interval import device_interval
from muse_bench.analysis.modules import largest_contributors
from muse_bench.analysis.verdict import margin_bytes
from muse_bench.record import Record, RunFile
from muse_bench.report import columns, table, words
from muse_bench.units import GIB, format_bytes, format_mib

CONTRIBUTORS = 3
CONTEXT = columns.Column("context", lambda record: format_mib(record.context_bytes))
MARGIN = columns.Column("to spare", lambda record: format_mib(margin_bytes(record)))
BOUNDS, PROOFS = (columns.LOWER, columns.UPPER), (columns.SMALLEST, columns.PROOF, columns.VERDICT)
SIZES = (columns.DEVICE, *BOUNDS, MARGIN, columns.HOST, *PROOFS)
WIDE = (columns.MODEL, columns.DTYPE, columns.RESERVED, CONTEXT, *SIZES)
CHOICES: tuple[table.Tables, ...] = (
    {"": WIDE},
    {"": (columns.MODEL, *SIZES)},
    {"": (columns.MODEL, *BOUNDS, *PROOFS)},
)


class Fit:
    """A verdict a record with its margin in MiB, then the largest holders of each record's peak."""

    def __init__(self, run: RunFile) -> None:
        self._run = run

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        records = self._run.records
        (shown,) = table.widest(console, options, records, CHOICES).values()
        held = columns.with_protocol(shown, records)
        yield table.title(self._run, _about(self._run))
        yield ""
        yield table.table(records, shown)
        meanings = " ".join((columns.meanings(held), *_bounds(self._run)))
        yield table.footnotes(records, meaning="\n".join((meanings, *words.peculiarities(records))))
        yield Text("\nWhat takes the most at the peak", style="bold")
        yield _holders(self._run)


def _about(run: RunFile) -> str:
    """The budget in words; the records of one run share it."""
    record = run.records[0]
    if record.budget_bytes is None or record.limit_bytes is None:
        return "Device memory in MiB"
    headroom = 1 - record.limit_bytes / record.budget_bytes
    return (
        f"Device memory in MiB against {format_mib(record.limit_bytes)}: "
        f"{record.budget_bytes / GIB:g} GiB less {headroom * 100:.3g} % headroom"
    )


def _bounds(run: RunFile) -> Iterator[str]:
    """Where the bounds of predictions come from."""
    intervals = map(device_interval, run.records)
    for source in dict.fromkeys(interval.source for interval in intervals if interval is not None):
        yield f"At least, at most: {source}."


def _holders(run: RunFile) -> Table:
    drawn = Table.grid(padding=(0, 2, 0, 0))
    for record in run.records:
        if largest := _largest(record):
            drawn.add_row(Text(words.plain(words.label(record, run.records)), style="bold"), Text(largest))
    return drawn


def _largest(record: Record) -> str:
    return ", ".join(
        f"{words.plain(holder.module)} {words.CATEGORIES[holder.category]} {format_bytes(holder.held_bytes)}"
        for holder in largest_contributors(record, CONTRIBUTORS)
    )
