"""A sweep as tables: peak and time per step at each value, and the exponents with which they grow."""

from collections.abc import Mapping
from typing import NamedTuple

from muse_bench.analysis.sweep import (
    Figure,
    along,
    exponent,
    new_token_of,
    peak_of,
    prefill_of,
    state_of,
    step_of,
    value_of,
)
from muse_bench.record import RunFile
from muse_bench.report import words
from muse_bench.report.sheet import Sheet
from muse_bench.units import MIB, format_mib

NAMES = {"seq": "sequence", "batch": "batch", "layers": "layers", "d-model": "width", "vocab": "vocabulary"}


def _mib(value: float | None) -> str:
    return format_mib(None if value is None else int(value))


def _fine_mib(value: float | None) -> str:
    return format_mib(None if value is None else int(value), decimals=3)


class Grown(NamedTuple):
    """A figure that grows: what it is, where a record has it, as text in a table, and the unit of a chart's axis."""

    what: str
    figure: Figure
    text: words.ToText
    unit: str = "ms"
    unit_size: float = 1e-3  # seconds or bytes


FIGURES = (
    Grown("Peak allocated, MiB", peak_of, _mib, "MiB", MIB),
    Grown("State per sequence, MiB", state_of, _fine_mib, "MiB", MIB),
    Grown("Time per step", step_of, words.duration_text),
    Grown("Time to read the prompt", prefill_of, words.duration_text),
    Grown("Time per new token after the first", new_token_of, words.duration_text),
)


def sheets(run: RunFile, param: str, fit_from: int) -> list[Sheet]:
    """The peaks, and the other figures that there are, with a row for each value and a column for each model."""
    found = []
    for grown in FIGURES:
        points = along(run.records, param, grown.figure)
        if grown is FIGURES[0] or any(points.values()):
            found.append(_sheet(run, param, fit_from, title(grown.what, param), points, grown.text))
    return found


def title(what: str, param: str) -> str:
    """The title of a figure's table and chart."""
    return f"{what}, by {NAMES[param]}"


def _sheet(
    run: RunFile,
    param: str,
    fit_from: int,
    heading: str,
    figures: Mapping[str, Mapping[int, float]],
    text: words.ToText,
) -> Sheet:
    values = sorted({value for record in run.records if (value := value_of(record, param)) is not None})
    failed = {(record.model, value_of(record, param)): record.status for record in run.records}
    rows = []
    for value in values:
        cells = (_cell(points.get(value), failed.get((model, value)), text) for model, points in figures.items())
        rows.append((f"{value:,}", *cells))
    exponents = [exponent({x: y for x, y in points.items() if x >= fit_from}) for points in figures.values()]
    grown = ("-" if found is None else f"{found:.3f}" for found in exponents)
    rows.append((f"exponent from {fit_from:,}", *grown))
    return Sheet(
        title=heading,
        headings=(NAMES[param], *map(words.plain, figures)),
        rows=rows,
        notes=(
            f"{words.origin(run)}; {words.software(run)}.",
            "exponent: p of the power law c x^p fitted to the logarithms, from the value that is named on.",
            *words.failures(run.records),
        ),
    )


def _cell(value: float | None, status: str | None, text: words.ToText) -> str:
    return text(value) if value is not None else "-" if status in (None, "ok") else status
