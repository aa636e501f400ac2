"""What the documents point to is there, and the commands that they show have these options."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from muse_bench.cli import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "reports" / "README.md"],
    key=lambda path: path.as_posix(),
)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(#[^)\s]*)?\)")
every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())


@every_document
def test_links_lead_to_files_that_are_there(path: Path) -> None:
    """A document renamed without those that point to it."""
    targets = [match[1] for match in LINK.finditer(path.read_text(encoding="utf-8"))]
    missing = [target for target in targets if "://" not in target and not (path.parent / target).exists()]
    assert not missing


def shown(path: Path) -> Iterator[list[str]]:
    """The commands in a document's blocks of code, as words; comments and redirections left out."""
    for block in re.findall(r"```[^\n]*\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.splitlines():
            _, found, command = line.partition("muse-bench ")
            if found and not line.lstrip().startswith("#") and "=" not in line.partition("muse-bench")[0]:
                yield shlex.split(command.partition(" > ")[0].partition(" | ")[0], comments=True)


@every_document
def test_commands_that_are_shown_have_these_options(path: Path) -> None:
    """An option renamed, or a command that went away, with the documents left behind."""
    group = typer.main.get_command(app)
    context = typer.Context(group)
    for words in shown(path):
        if not words or not words[0][0].isalpha():
            continue
        command = group.get_command(context, words[0])  # type: ignore[attr-defined]
        assert command is not None, words
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        unknown = [
            word for word in words[1:] if word.startswith("-") and word.partition("=")[0] not in known | {"--help"}
        ]
        assert not unknown, words
