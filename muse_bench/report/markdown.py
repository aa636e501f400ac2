"""Markdown: a title, one table in MiB, footnotes."""

from collections.abc import Sequence

from muse_bench.record import Record, RunFile
from muse_bench.report import columns, words

SUFFIX = ".md"
SECTIONS = True


def render(run: RunFile) -> str:
    """The run as a section of a Markdown document."""
    against = sorted({record.reduction_against for record in run.records if record.reduction_against})
    lines = [
        f"## Peak GPU memory, MiB, {_escape(words.origin(run))}",
        "",
        f"{_escape(words.protocol(run))}; {_escape(words.software(run))}"
        + (f"; reduction against `{'`, `'.join(map(words.plain, against))}`" if against else ""),
        "",
        *_table(run.records),
        "",
        *(f"- {_escape(line)}" for line in (*words.failures(run.records), *words.notes(run.records))),
        f"- {columns.meanings(columns.FULL)} {words.limit_text(run.records)}".rstrip(),
    ]
    if run.command:
        lines += ["", f"    {words.plain(run.command)}"]
    return "\n".join(lines) + "\n"


def _table(records: Sequence[Record]) -> list[str]:
    shown = columns.with_protocol(columns.FULL, records)
    rows = [[_escape(column.text(record)) for column in shown] for record in records]
    headings = [column.heading for column in shown]
    widths = [max(map(len, cells)) for cells in zip(headings, *rows, strict=True)]
    rule = [
        ":" + "-" * (width - 1) if column.left else "-" * (width - 1) + ":"
        for column, width in zip(shown, widths, strict=True)
    ]
    return [_line(cells, widths, shown) for cells in (headings, rule, *rows)]


def _line(cells: Sequence[str], widths: Sequence[int], shown: Sequence[columns.Column]) -> str:
    padded = (
        cell.ljust(width) if column.left else cell.rjust(width)
        for cell, width, column in zip(cells, widths, shown, strict=True)
    )
    return f"| {' | '.join(padded)} |"


def _escape(text: str) -> str:
    """Text that Markdown shows as it is: no cell ends early and no tag begins."""
    for letter in "\\|<>`*[]":
        text = text.replace(letter, f"\\{letter}")
    return text
