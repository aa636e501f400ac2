"""`muse-bench accuracy`: predictions beside measurements of the same cases."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from muse_bench.analysis.accuracy import FIGURES, Pair, Summary, pair_up, summarise
from muse_bench.cli import console
from muse_bench.errors import ExitCode, UsageError
from muse_bench.record import Record, read_run_file, write_whole
from muse_bench.report.sheet import Sheet, render_markdown, render_terminal
from muse_bench.units import format_mib

NAMES = {
    "peak_allocated_bytes": "peak",
    "cold_peak_allocated_bytes": "cold",
    "peak_reserved_bytes": "reserved",
    "device_peak_bytes": "device",
}


def accuracy(
    records: Annotated[list[Path], typer.Argument(metavar="RECORDS...", help="Measured and predicted record files.")],
    markdown: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the tables here, as Markdown.")
    ] = None,
) -> int:
    """Show how far predictions are from measurements of the same cases.

    \b
    Examples:
      muse-bench accuracy measured.json predicted.json
      muse-bench accuracy reports/h200/*.json --output accuracy.md
    """
    if markdown is not None and markdown.suffix != ".md":
        raise UsageError(f"{markdown}: unknown suffix '{markdown.suffix}': use .md")
    runs = [read_run_file(path) for path in records]
    pairs = pair_up(record for run in runs for record in run.records)
    if not pairs:
        raise UsageError("no case is both measured and predicted for the same GPU in these files")
    releases = sorted({f"torch {run.environment.torch}" for run in runs})
    sheets = (_summary(pairs, releases), _cases(pairs))
    if markdown is not None:
        write_whole(markdown, render_markdown(*sheets))
    console.stdout().print(render_terminal(*sheets))
    return ExitCode.OK


def _summary(pairs: Sequence[Pair], releases: Sequence[str]) -> Sheet:
    summaries = [summary for figure in FIGURES if (summary := summarise(pairs, figure)) is not None]
    gpus = ", ".join(sorted({str(pair.measured.gpu) for pair in pairs}))
    return Sheet(
        title=f"Prediction error, {gpus}",
        headings=("figure", "cases", "median", "95th percentile", "worst", "under", "worst under"),
        rows=[_summary_row(summary) for summary in summaries],
        notes=(
            "Errors are by absolute size; under: how many predictions say less than was measured, and by how much.",
            f"{'; '.join(releases)}.",
        ),
    )


def _summary_row(summary: Summary) -> tuple[str, ...]:
    return (
        NAMES[summary.figure],
        str(summary.cases),
        *(f"{error:.2%}" for error in (summary.median, summary.percentile_95, summary.worst)),
        str(summary.under_estimates),
        f"{summary.worst_under_estimate:.2%}",
    )


def _cases(pairs: Sequence[Pair]) -> Sheet:
    return Sheet(
        title="Each case, in MiB",
        headings=("model", "mode", "sizes", "peak", "predicted", "error", "cold", "reserved", "device"),
        rows=[_case_row(pair) for pair in pairs],
        labels=3,
        notes=("cold, reserved and device are errors of the prediction.",),
    )


def _case_row(pair: Pair) -> tuple[str, ...]:
    record = pair.measured
    return (
        f"{record.model} {record.dtype}",
        record.mode + (" (workspace off)" if record.workspace_setting == "off" else ""),
        _sizes(record),
        format_mib(record.peak_allocated_bytes),
        format_mib(pair.predicted.peak_allocated_bytes),
        *(_percent(pair.error(figure)) for figure in FIGURES),
    )


def _sizes(record: Record) -> str:
    vocab, width = (record.config.get(name) for name in ("vocab_size", "d_model"))
    shape = f"{vocab}/{width}, " if width else ""
    return f"{shape}{record.batch} x {record.seq}"


def _percent(error: float | None) -> str:
    return "-" if error is None else f"{error:+.2%}"
