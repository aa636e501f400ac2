"""`muse-bench ablate`: a waterfall from one preset to another, one technique at a time."""

from pathlib import Path
from typing import Annotated

import typer

from muse_bench.cli.cases import build_cases
from muse_bench.cli.charts import ChartOptions
from muse_bench.cli.options import MODEL, Backend, BudgetOptions, ProtocolOptions, RunOptions, SizeOptions
from muse_bench.cli.sheets import Names, Quality, distinct, read_quality, run_shown, show_saved
from muse_bench.models.ablation import route
from muse_bench.record import RunFile
from muse_bench.report.ablation import sheets
from muse_bench.report.charts.picture import Picture
from muse_bench.report.sheet import Sheet


def pictures(run: RunFile) -> list[Picture]:
    """The waterfall; altair is slow to import."""
    from muse_bench.report.charts import ablation

    return ablation.pictures(run)


def ablate(
    sizes: SizeOptions,
    protocol: ProtocolOptions,
    budget: BudgetOptions,
    options: RunOptions,
    charts: ChartOptions,
    source: Annotated[
        str, typer.Option("--from", metavar="NAME", help="The preset or variant to begin with.", rich_help_panel=MODEL)
    ] = "baseline",
    target: Annotated[
        str, typer.Option("--to", metavar="NAME", help="The preset or variant to end with.", rich_help_panel=MODEL)
    ] = "muse",
    quality: Quality = None,
    names: Names = False,
    saved: Annotated[
        Path | None, typer.Option("--records", metavar="FILE", help="Show a saved ablation; run nothing.")
    ] = None,
    backend: Backend = "auto",
) -> int:
    """See what each technique saves on the way from one preset to another.

    Techniques are added one at a time, in one order, so their savings add up.
    Measures where there is a GPU, and predicts where there is none. Exits with
    4 when a case ran out of memory or crashed; the others are shown.

    \b
    Examples:
      muse-bench ablate --to ultra
      muse-bench ablate --from tuned --to muse --gpu rtx-4060 --output steps.md
      muse-bench quality --models "$(muse-bench ablate --names)" --output q.json
      muse-bench ablate --quality q.json --output steps.json
      muse-bench ablate --records steps.json --quality q.json --output steps.html
    """
    runs = read_quality(quality)

    def draw(run: RunFile) -> list[Sheet]:
        return sheets(run, runs)

    if saved is not None:
        return show_saved([saved], draw, options.output, runs, pictures, charts)
    models = route(source, target)
    if names:
        typer.echo(distinct(models))
        return 0

    return run_shown(build_cases(models, sizes, protocol, budget), backend, options, draw, models[0], pictures, charts)
