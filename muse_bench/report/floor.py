"""Floors beside peaks: a table for each mode, the formulas below it, and the floor that the earlier reports name."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Sequence

from muse_bench.analysis.floor import CATEGORIES, REPORTED, REPORTED_SIZES, Bounded, Category, Floor
from muse_bench.record import RunFile
from muse_bench.report import words
from muse_bench.report.sheet import Sheet
from muse_bench.units import format_mib

NAMES: dict[Category, str] = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer_state": "optimizer",
    "activations": "activations",
    "inputs": "inputs",
}
HEADINGS = ("model", "", *NAMES.values(), "rest", "total", "/ floor", "/ baseline's")
ASSUMPTIONS = (
    "floor: what must be there at once at the instant that needs most, with all weights where the model has them. "
    "Sequences may "
    "pass one at a time; activations may be computed again or written over; products, attention and a loss's logits "
    "may be tiled; no workspace.",
    "streamed: the floor with weights, gradients and optimizer state in host memory and one product's weight at hand; "
    "less where that is tiled.",
    "peak: as its ledger splits it; parameters with buffers; rest: workspace and unattributed. / floor: peak over the "
    "model's own floor; / baseline's: over that of `baseline`, which another architecture may go below.",
)


def sheets(run: RunFile, rows: Sequence[Bounded], reported: Sequence[Floor]) -> list[Sheet]:
    """A table for each mode; then the reports' own beside `reported`: ours of its case with all logits and the last."""
    groups: dict[tuple[str, str], list[Bounded]] = {}
    for row in rows:
        groups.setdefault((row.record.mode, row.record.logits), []).append(row)
    found = [_sheet(run, group) for group in groups.values()]
    every, last = reported
    return [*found, _reported(every, last, (*ASSUMPTIONS, *_left_out(run, rows)))]


def render_csv(rows: Sequence[Bounded]) -> str:
    """One line a part: its formula, the floor's bytes and the peak's; a missing value is empty."""
    text = io.StringIO()
    lines = list(_lines(rows))
    writer = csv.DictWriter(text, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def render_json(run: RunFile, rows: Sequence[Bounded]) -> str:
    """The file of the records, with the floors' lines in a list beside them."""
    return json.dumps({**json.loads(run.to_json()), "floors": list(_lines(rows))}, indent=1) + "\n"


def _lines(rows: Sequence[Bounded]) -> Iterator[dict[str, str | int | None]]:
    for row in rows:
        record, own = row.record, row.floor
        protocol = {name: getattr(record, name) for name in ("model", "mode", "logits", "dtype", "batch", "seq")}
        for name in CATEGORIES:
            formula = "; ".join(part.formula for part in own.parts if part.category == name) or None
            yield _line(protocol, name, formula, own.of(name), row.taken(name))
        yield _line(protocol, "total", "the sum of the parts", own.total_bytes, record.peak_allocated_bytes)
        yield _line(protocol, "streamed", "inputs, activations, one product's weight", own.streamed_bytes, None)


def _line(
    protocol: dict[str, str | int | None], part: str, formula: str | None, floor: int, peak: int | None
) -> dict[str, str | int | None]:
    return {**protocol, "part": part, "formula": formula, "floor_bytes": floor, "peak_bytes": peak}


def _sheet(run: RunFile, group: Sequence[Bounded]) -> Sheet:
    some = dataclasses.replace(run, records=tuple(row.record for row in group))
    record = group[0].record
    logits = f", {record.logits} logits" if record.mode == "inference" else ""
    baseline = next((row.floor for row in group if row.record.model == "baseline"), None)
    return Sheet(
        title=f"Floor and peak, MiB: {words.protocol(some)}{logits}",
        headings=HEADINGS,
        rows=[cells for row in group for cells in _rows(row, baseline)],
        labels=2,
        notes=(
            f"peaks {words.origin(some)}; {words.software(run)}.",
            *_formulas(group),
            *words.failures(some.records),
        ),
    )


def _left_out(run: RunFile, rows: Sequence[Bounded]) -> list[str]:
    kept = {id(row.record) for row in rows}
    names = dict.fromkeys(words.plain(record.model) for record in run.records if id(record) not in kept)
    return (
        [f"left out, since this version builds another model than was recorded: {', '.join(names)}."] if names else []
    )


def _rows(row: Bounded, baseline: Floor | None) -> Iterator[tuple[str, ...]]:
    own, record = row.floor, row.record
    yield (
        words.plain(record.model),
        "floor",
        *(format_mib(own.of(n)) for n in NAMES),
        "",
        format_mib(own.total_bytes),
        "",
        "",
    )
    yield "", "streamed", *("" for _ in NAMES), "", format_mib(own.streamed_bytes), "", ""
    rest = (
        None
        if record.ledger is None
        else record.ledger.workspace + record.ledger.communication + record.ledger.unattributed
    )
    total = format_mib(record.peak_allocated_bytes) if record.status == "ok" else record.status
    ratios = (row.ratio, None if baseline is None else row.over(baseline))
    yield "", "peak", *(format_mib(row.taken(n)) for n in NAMES), format_mib(rest), total, *map(_times, ratios)


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def _formulas(group: Sequence[Bounded]) -> Iterator[str]:
    """Each part's formula, with the models that it is about when it is not about all of them."""
    models: dict[tuple[str, str], list[str]] = {}
    for row in group:
        for part in row.floor.parts:
            models.setdefault((NAMES[part.category], part.formula), []).append(row.record.model)
    for (name, formula), named in models.items():
        about = "" if len(named) == len(group) else f" ({words.plain(', '.join(named))})"
        yield f"{name}: {formula}{about}."


def _reported(every: Floor, last: Floor, notes: Sequence[str]) -> Sheet:
    """Of the parts that the reports name, a program needs the logits alone; what it does need they leave out."""
    rows = [
        (one.part, format_mib(one.size_bytes), format_mib(every.of("activations") if one.is_logits else 0), one.needed)
        for one in REPORTED
    ]
    resident = every.of("parameters") + every.of("inputs")
    rows.append(("parameters and ids", "-", format_mib(resident), "not among the reports' parts"))
    rows.append(("total", format_mib(sum(one.size_bytes for one in REPORTED)), format_mib(every.total_bytes), ""))
    rows.append(("total, last logits only", "-", format_mib(last.total_bytes), "what generating text needs"))
    sizes = REPORTED_SIZES
    return Sheet(
        title="The floor that the earlier reports name, MiB: inference of `ultimate`, batch 1, "
        f"seq {sizes.seq_len:,}, vocab {sizes.vocab_size:,}, d_model {sizes.d_model:,}, {sizes.n_layers} layers",
        headings=("part", "why", "reports", "needed"),
        rows=[(part, why, claimed, needed) for part, claimed, needed, why in rows],
        labels=2,
        notes=notes,
    )
