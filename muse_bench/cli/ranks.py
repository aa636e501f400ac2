"""`muse-bench ranks`: what the ranks of a model's parts cost in memory, and what they bring in quality."""

from pathlib import Path
from typing import Annotated

import typer

from muse_bench.analysis.ranks import PARTS, check_ranks, ranked_names
from muse_bench.cli.cases import build_cases
from muse_bench.cli.options import MODEL, Backend, BudgetOptions, ProtocolOptions, RunOptions, SizeOptions
from muse_bench.cli.sheets import Names, Quality, distinct, read_quality, run_shown, show_saved
from muse_bench.cli.sweep import parse_values
from muse_bench.errors import UsageError
from muse_bench.record import RunFile
from muse_bench.report.ranks import sheets
from muse_bench.report.sheet import Sheet

BASELINE = "baseline"


def ranks(
    sizes: SizeOptions,
    protocol: ProtocolOptions,
    budget: BudgetOptions,
    options: RunOptions,
    base: Annotated[
        str, typer.Option(metavar="NAME", help="The preset or variant whose ranks change.", rich_help_panel=MODEL)
    ] = "ultra",
    part: Annotated[
        str, typer.Option(metavar="A,B", help=f"Whose rank changes: {', '.join(PARTS)}.", rich_help_panel=MODEL)
    ] = ",".join(PARTS),
    values: Annotated[
        str,
        typer.Option(metavar="A..B", help="The ranks: A..B doubles from A to B; or A,B,C.", rich_help_panel=MODEL),
    ] = "1..64",
    quality: Quality = None,
    names: Names = False,
    saved: Annotated[Path | None, typer.Option("--from", metavar="FILE", help="Show saved ranks; run nothing.")] = None,
    backend: Backend = "auto",
) -> int:
    """See what ranks cost in memory: of the embedding, the mixer, the FFN, and of all three together.

    Each rank changes alone, the others stay as in the base. Measures where
    there is a GPU, and predicts where there is none. Exits with 4 when a case
    ran out of memory or crashed; the others are shown.

    \b
    Examples:
      muse-bench ranks --part mixer --values 1..256
      muse-bench ranks --base extreme --part embedding,all --output ranks.md
      muse-bench quality --models "$(muse-bench ranks --names)" --output q.json
      muse-bench ranks --quality q.json --output ranks.json
      muse-bench ranks --from ranks.json --quality q.json
    """
    runs = read_quality(quality)

    def draw(run: RunFile) -> list[Sheet]:
        return sheets(run, runs)

    if saved is not None:
        return show_saved([saved], draw, options.output, runs)
    parts = _parts(part)
    models = [BASELINE, base, *ranked_names(base, parts, parse_values(values))]
    cases = build_cases(models, sizes, protocol, budget)
    if cases[1].config is None:
        raise UsageError(f"--base '{base}' is a model of your own, whose ranks are its own: choose a preset")
    check_ranks(base, cases[1].config, parts)
    if names:
        typer.echo(distinct(models))
        return 0

    return run_shown(cases, backend, options, draw, BASELINE)


def _parts(text: str) -> list[str]:
    """The words in 'embedding,ffn', each once. Raises: UsageError for a word that is no part."""
    words = list(dict.fromkeys(word.strip() for word in text.split(",")))
    for word in words:
        if word not in PARTS:
            raise UsageError(f"--part '{word}' is unknown: choose from {', '.join(PARTS)}")
    return words
