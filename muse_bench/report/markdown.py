"""Markdown: a title, one table in MiB, footnotes."""

from collections.abc import Callable, Sequence

from muse_bench.record import Record, RunFile
from muse_bench.report import columns, words
from muse_bench.report.repeats import repeat_lines
from muse_bench.report.sharding import HEADINGS, rank_lines, rank_rows, rank_title

SUFFIX = ".md"
SECTIONS = True


def render(run: RunFile) -> str:
    """The run as a section of a Markdown document."""
    shown = columns.with_protocol(columns.FULL, run.records)
    against = sorted({record.reduction_against for record in run.records if record.reduction_against})
    lines = [
        f"## Peak GPU memory, MiB, {escape(words.origin(run))}",
        "",
        f"{escape(words.protocol(run))}; {escape(words.software(run))}"
        + (f"; reduction against {', '.join(map(code, against))}" if against else ""),
        "",
        *_table(run.records, shown),
        "",
        *(f"- {escape(line)}" for line in (*words.failures(run.records), *words.notes(run.records))),
        *(f"- {escape(line)}" for line in repeat_lines(run.records)),
        f"- {columns.meanings(shown)} {words.limit_text(run.records)}".rstrip(),
        *(f"- {escape(line)}" for line in words.peculiarities(run.records)),
    ]
    for record in run.records:
        lines += _ranks(record)
    if run.command:
        lines += ["", command_line(run.command)]
    return "\n".join(lines) + "\n"


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]], is_left: Callable[[int], bool]) -> list[str]:
    """The lines of a table, escaped; columns for which `is_left` holds stand left, the others right."""
    titles, *cells = [[escape(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    rule = [":" + "-" * (w - 1) if is_left(index) else "-" * (w - 1) + ":" for index, w in enumerate(widths)]
    return [_line(row, widths, is_left) for row in (titles, rule, *cells)]


def _ranks(record: Record) -> list[str]:
    if not record.of_ranks:
        return []
    table = markdown_table(HEADINGS, rank_rows(record), lambda _: False)
    return ["", f"### {escape(rank_title(record))}", "", *table, "", *(f"- {line}" for line in rank_lines(record))]


def _table(records: Sequence[Record], shown: Sequence[columns.Column]) -> list[str]:
    ordered = sorted(shown, key=lambda column: not column.left)
    rows = [[column.text(record) for column in ordered] for record in records]
    headings = [columns.one_line(column.heading) for column in ordered]
    return markdown_table(headings, rows, lambda index: ordered[index].left)


def _line(cells: Sequence[str], widths: Sequence[int], is_left: Callable[[int], bool]) -> str:
    padded = (
        cell.ljust(width) if is_left(index) else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return f"| {' | '.join(padded)} |"


def escape(text: str) -> str:
    """Text that Markdown shows as it is: no cell ends early and no tag begins."""
    for letter in "\\|<>`*[]":
        text = text.replace(letter, f"\\{letter}")
    return text


def code(text: str) -> str:
    """Text between backticks, of which it then can have none."""
    inside = words.plain(text).replace("`", "'")
    return f"`{inside}`"


def command_line(command: str) -> str:
    """A command on a line of its own. Behind a list that is no code but text, in which a tag or a link could begin."""
    return "    " + words.plain(command).replace("<", "&lt;").replace("](", "]&#40;")
