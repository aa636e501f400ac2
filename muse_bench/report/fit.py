"""The verdicts of several records for the terminal: what the device needs, what is left, what takes the most."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from muse_bench.analysis.modules import largest_contributors
from muse_bench.analysis.verdict import margin_bytes
from muse_bench.record import Record, RunFile
from muse_bench.report import columns, table, words
from muse_bench.units import GIB, format_bytes, format_mib

CONTRIBUTORS = 3
MARGIN = columns.Column("to spare", lambda record: format_mib(margin_bytes(record)))
CONTEXT = columns.Column("context", lambda record: format_mib(record.context_bytes))
SHOWN = (columns.MODEL, columns.DTYPE, columns.RESERVED, CONTEXT, columns.DEVICE, MARGIN, columns.VERDICT)


def fit(run: RunFile) -> RenderableType:
    """A verdict a record with its margin in MiB, then the largest holders of each record's peak."""
    holders = Table.grid(padding=(0, 2, 0, 0))
    for record in run.records:
        if largest := _largest(record):
            holders.add_row(Text(words.plain(record.model), style="bold"), Text(largest))
    return Group(
        table.title(run, _about(run)),
        "",
        table.table(run.records, SHOWN),
        table.footnotes(run.records, meaning=columns.meanings(SHOWN)),
        Text("\nWhat takes the most at the peak", style="bold"),
        holders,
    )


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


def _largest(record: Record) -> str:
    return ", ".join(
        f"{words.plain(holder.module)} {words.CATEGORIES[holder.category]} {format_bytes(holder.held_bytes)}"
        for holder in largest_contributors(record, CONTRIBUTORS)
    )
