"""The comparison of several records for the terminal: Rich renderables that fit 80 columns and use 120."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from muse_bench.record import Record, RunFile
from muse_bench.report import columns, words
from muse_bench.report.repeats import repeat_lines

UNBOUNDED = 1_000
Tables = dict[str, tuple[columns.Column, ...]]  # the columns of each table by its heading
COMPARISONS: tuple[Tables, ...] = (
    {"": columns.SUMMARY, "What holds the peak": (columns.MODEL, columns.PEAK, *columns.LEDGER)},
    {"": columns.COMPACT},
    {"": columns.NARROW},
    {"": columns.LEAST},
)
VERDICT_STYLES = {"PASS": "bold green", "FAIL": "bold red", "INCONCLUSIVE": "bold yellow"}


class Comparison:
    """The records of a run side by side, in as many columns as the terminal has room for.

    Two tables where it is wide, the second with the whole ledger; one that sums the ledger up where it is not.
    """

    def __init__(self, run: RunFile) -> None:
        self._run = run

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        run = self._run
        chosen = widest(console, options, run.records, COMPARISONS)
        yield title(run, _about(run.records))
        for heading, shown in chosen.items():
            yield Text(f"\n{heading}".rstrip("\n"), style="bold")
            yield table(run.records, shown)
        held = (columns.with_protocol(shown, run.records) for shown in chosen.values())
        meanings = columns.meanings([column for shown in held for column in shown])
        said = (f"{meanings} {words.limit_text(run.records)}", *words.peculiarities(run.records))
        yield footnotes(run.records, meaning="\n".join(said))


def title(run: RunFile, about: str) -> Text:
    """What the figures are, where they come from, and the protocol that they share."""
    text = Text(f"{about}\n", style="bold")
    text.append(words.origin(run), style="cyan")
    return text.append(f"\n{words.protocol(run)}; {words.software(run)}", style="not bold dim")


def table(records: Sequence[Record], wanted: Sequence[columns.Column]) -> Table:
    """One row a record; a case that did not finish says so where its peak would be."""
    shown = columns.with_protocol(wanted, records)
    drawn = frame()
    for column in shown:
        wraps = column is columns.MODEL or "\n" in column.heading
        drawn.add_column(column.heading, justify="left" if column.left else "right", no_wrap=not wraps, overflow="fold")
    for record in records:
        drawn.add_row(*(_cell(column, record) for column in shown))
    return drawn


def frame() -> Table:
    """An empty table as all of them look: a rule below the headings and nothing else."""
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")


def footnotes(records: Sequence[Record], *, meaning: str | None = None) -> Text:
    """The cases that failed, what the figures mean, and the notes that a reader needs."""
    text = Text("\n")
    for line in words.failures(records):
        text.append(f"{line}\n", style="red")
    if meaning:
        text.append(f"{meaning}\n", style="dim")
    for line in repeat_lines(records):
        text.append(f"{line}\n", style="cyan")
    for line in words.notes(records):
        text.append(f"{line}\n", style="yellow")
    text.rstrip()
    return text


def verdict_text(record: Record) -> Text:
    """The verdict's word in its colour."""
    return Text(record.verdict or "-", style=VERDICT_STYLES.get(record.verdict or "", ""))


def widest(console: Console, options: ConsoleOptions, records: Sequence[Record], choices: Sequence[Tables]) -> Tables:
    """The first of the choices of tables that fits the terminal, else the last."""
    free = options.update(max_width=UNBOUNDED)
    for choice in choices:
        widths = (console.measure(table(records, shown), options=free).maximum for shown in choice.values())
        if max(widths) <= options.max_width:
            return choice
    return choices[-1]


def _about(records: Sequence[Record]) -> str:
    against = sorted({words.plain(record.reduction_against) for record in records if record.reduction_against})
    return "Peak GPU memory in MiB" + (f", reduction against {', '.join(against)}" if against else "")


def _cell(column: columns.Column, record: Record) -> Text:
    if column is columns.VERDICT:
        return verdict_text(record)
    style = "bold" if column in (columns.MODEL, columns.PEAK) else ""
    return Text(column.text(record), style="red" if column is columns.PEAK and record.status != "ok" else style)
