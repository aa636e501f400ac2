"""A table of text with a title and footnotes, whatever it is about: what an analysis shows, in any format."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from muse_bench.record import JOINT
from muse_bench.report.markdown import command_line, escape, markdown_table
from muse_bench.report.table import frame


@dataclass(frozen=True, slots=True)
class Sheet:
    """Rows of text under headings. The first `labels` and the last `ends` columns hold words and stand left.

    The others hold numbers.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    labels: int = 1
    notes: Sequence[str] = ()
    ends: int = 0

    def is_words(self, column: int) -> bool:
        """Whether a column holds words."""
        return column < self.labels or column >= len(self.headings) - self.ends


def render_terminal(*sheets: Sheet) -> RenderableType:
    """The sheets one below the other, for Rich to print."""
    parts: list[RenderableType] = []
    for sheet in sheets:
        drawn = frame()
        for index, heading in enumerate(sheet.headings):
            left = sheet.is_words(index)
            drawn.add_column(heading, justify="left" if left else "right", no_wrap=not left, overflow="fold")
        for row in sheet.rows:
            drawn.add_row(*row)
        notes = Text("\n".join(sheet.notes) + "\n", style="dim")
        parts += [Text(f"{sheet.title}\n", style="bold"), drawn, notes]
    return Group(*parts)


def render_markdown(*sheets: Sheet, command: str | None = None) -> str:
    """The sheets as sections of a Markdown document, and the command, or those, that made them."""
    sections = []
    for sheet in sheets:
        lines = [
            f"## {escape(sheet.title)}",
            "",
            *markdown_table(sheet.headings, sheet.rows, sheet.is_words),
            "",
            *(f"- {escape(note)}" for note in sheet.notes),
        ]
        sections.append("\n".join(lines).rstrip() + "\n")
    if command:
        sections.append("".join(f"{command_line(one)}\n" for one in command.split(JOINT)))
    return "\n".join(sections)
