"""`muse-bench diff`: what grew between two record files, or between two commits."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from muse_bench.analysis.difference import foreign, match, match_altered
from muse_bench.cli import console
from muse_bench.cli.cases import split_models
from muse_bench.cli.commits import parse_commits, predict_commit
from muse_bench.cli.options import MODEL, OUTPUT, RUNNING, ProtocolOptions, ScaleOptions
from muse_bench.cli.outputs import Outputs
from muse_bench.cli.run import case_status
from muse_bench.cli.saved import read_cases
from muse_bench.errors import UsageError
from muse_bench.record import RunFile
from muse_bench.report import Format
from muse_bench.report.difference import Difference, render_csv, render_document, render_json, sheets
from muse_bench.report.sheet import render_terminal

FORMATS = (
    Format("markdown", ".md", False, render_document),
    Format("json", ".json", False, render_json),
    Format("csv", ".csv", False, render_csv),
)


def diff(
    scale: ScaleOptions,
    protocol: ProtocolOptions,
    records: Annotated[
        list[Path] | None, typer.Argument(metavar="A B", help="Two files that --output x.json wrote.")
    ] = None,
    git: Annotated[
        str | None,
        typer.Option(metavar="BASE..HEAD", help="Predict the cases at two commits instead.", show_default=False),
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="With --git, the models: presets, variants or factories.",
            show_default="those of compare",
            rich_help_panel=MODEL,
        ),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="With --git, the GPU to predict for.", show_default="rtx-4060", rich_help_panel=RUNNING
        ),
    ] = None,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the difference here, as .md, .json or .csv. Repeatable.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
) -> int:
    """See what grew between two record files, or two commits: by case, by category, by module.

    With --git each commit is checked out in a temporary folder, and removed
    again. In a repository of muse-bench each predicts with its own code;
    elsewhere this muse-bench predicts each commit's factories.
    Exits with 4 when a case ran out of memory or crashed; the others are shown.

    \b
    Examples:
      muse-bench diff monday.json tuesday.json
      muse-bench diff baseline.json vram.json --output difference.md
      muse-bench diff --git main..HEAD --models my_model.py:build --seq 1024
      muse-bench diff --git v0.1.0..HEAD --models ultra,muse --gpu rtx-3080
    """
    outputs = Outputs(output or (), FORMATS)
    given = _arguments(scale, protocol) + _named(models=models, gpu=gpu)
    difference = _of_files(records or (), given) if git is None else _of_commits(git, models, records, given)
    console.stdout().print(render_terminal(*sheets(difference)))
    outputs.write(difference)
    return max(case_status(difference.before), case_status(difference.after))


def _of_files(records: Sequence[Path], given: Sequence[str]) -> Difference:
    if len(records) != 2:
        raise UsageError(f"there are {len(records)} record files: give two, or two commits with --git BASE..HEAD")
    if given:
        raise UsageError(f"{given[0]} is for --git BASE..HEAD: the cases of record files are what they are")
    before, after = map(read_cases, records)
    return _compare(before, after, ())


def _of_commits(git: str, models: str | None, records: object, given: Sequence[str]) -> Difference:
    if records:
        raise UsageError("--git takes no record files: leave them out, or --git")
    for name in split_models(models) if models else ():
        if name.startswith(("/", "~")):
            raise UsageError(f"'{name}' is the same file at every commit: name it as it is from this folder on")
    base, head = parse_commits(git)
    try:
        before, after = (predict_commit(commit, given) for commit in (base, head))
    except KeyboardInterrupt:
        console.complain("interrupted: there is no difference without both commits")
        raise
    return _compare(before, after, (f"before: {base}", f"after: {head}"))


def _compare(before: RunFile, after: RunFile, remarks: Sequence[str]) -> Difference:
    """The two runs side by side, and what else they differ in."""
    matched = match_altered(match(before.records, after.records))
    differing = foreign(before, after, matched.pairs)
    said = (f"{name} differs: {was} before, {now} after" for name, (was, now) in differing.items())
    return Difference(before, after, matched, (*remarks, *said))


def _arguments(*groups: Any) -> list[str]:
    """The options of the groups that are not as they are by themselves, as they would be typed."""
    fields = [(group, field) for group in groups for field in dataclasses.fields(group)]
    return _named(**{f.name: getattr(group, f.name) for group, f in fields if getattr(group, f.name) != f.default})


def _named(**values: Any) -> list[str]:
    """Options by name; those of None are left out."""
    given = ((f"--{name.replace('_', '-')}", str(value)) for name, value in values.items() if value is not None)
    return [word for pair in given for word in pair]
