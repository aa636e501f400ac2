"""`muse-bench sweep`: how memory and time grow with one size."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from muse_bench.analysis.sweep import PARAMS
from muse_bench.cli.cases import build_cases, split_models
from muse_bench.cli.charts import ChartOptions
from muse_bench.cli.options import (
    DEFAULT_MODELS,
    MODEL,
    Backend,
    BudgetOptions,
    Models,
    ProtocolOptions,
    RunOptions,
    SizeOptions,
)
from muse_bench.cli.sheets import run_shown, show_saved
from muse_bench.errors import UsageError
from muse_bench.record import RunFile
from muse_bench.report.charts.picture import Picture
from muse_bench.report.sheet import Sheet
from muse_bench.report.sweep import sheets
from muse_bench.units import parse_count

FIELDS = {"seq": "seq", "batch": "batch", "layers": "layers", "d-model": "d_model", "vocab": "vocab"}


def sweep(
    sizes: SizeOptions,
    protocol: ProtocolOptions,
    budget: BudgetOptions,
    options: RunOptions,
    charts: ChartOptions,
    models: Models = DEFAULT_MODELS,
    param: Annotated[
        str, typer.Option(metavar="NAME", help=f"What grows: {', '.join(PARAMS)}.", rich_help_panel=MODEL)
    ] = "seq",
    values: Annotated[
        str,
        typer.Option(metavar="A..B", help="Its values: A..B doubles from A to B; or A,B,C.", rich_help_panel=MODEL),
    ] = "512..8192",
    fit_from: Annotated[
        str | None,
        typer.Option(
            metavar="N", help="Fit exponents from this value on.", show_default="the first", rich_help_panel=MODEL
        ),
    ] = None,
    saved: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="FILE", help="Show a saved sweep; run nothing. Repeatable, for its parts."),
    ] = None,
    backend: Backend = "auto",
) -> int:
    """See how memory and time per step grow with one size, and with which exponent.

    With --mode decode also the state that is kept of each sequence.
    Measures where there is a GPU, and predicts where there is none. Exits with
    4 when a case ran out of memory or crashed; the others are shown.

    \b
    Examples:
      muse-bench sweep --param seq --values 512..131072 --models tuned,ultra
      muse-bench sweep --param batch --values 1,2,4 --gpu rtx-4060 --output batch.md
      muse-bench sweep --mode decode --values 512..65536 --models baseline,muse
      muse-bench sweep --from sweep.json --fit-from 4096 --output sweep.html
    """
    if param not in PARAMS:
        raise UsageError(f"--param '{param}' is unknown: choose from {', '.join(PARAMS)}")
    wanted = parse_values(values)
    first = wanted[0] if fit_from is None else parse_count(fit_from)

    def draw(run: RunFile) -> list[Sheet]:
        return sheets(run, param, first)

    def pictures(run: RunFile) -> list[Picture]:
        from muse_bench.report.charts import sweep as charts  # altair is slow to import

        return charts.pictures(run, param, first)

    if saved:
        return show_saved(saved, draw, options.output, pictures=pictures, charts=charts)
    names = split_models(models)
    if param in ("layers", "d-model", "vocab") and any(":" in name for name in names):
        raise UsageError(f"--param {param} is for presets: a model of your own keeps its sizes; use seq or batch")
    cases = [
        case
        for value in wanted
        for case in build_cases(names, dataclasses.replace(sizes, **{FIELDS[param]: value}), protocol, budget)
    ]
    return run_shown(cases, backend, options, draw, pictures=pictures, charts=charts)


def parse_values(text: str) -> list[int]:
    """The values in 'A..B', each twice the one before, or in 'A,B,C', in order.

    Raises: UsageError for what is neither.
    """
    first, dots, last = text.partition("..")
    if not dots:
        values = sorted({parse_count(part) for part in text.split(",")})
    else:
        low, high = parse_count(first), parse_count(last)
        values = [low << power for power in range((high // max(low, 1)).bit_length())]
    if not values or values[0] < 1:
        raise UsageError(f"--values '{text}' are not sizes: give A..B with A from 1 to B, or numbers with commas")
    return values
