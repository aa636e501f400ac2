"""The pictures of records: their peaks side by side, and of each the step that peaks and the modules that hold it."""

import dataclasses
import itertools
import re
from collections.abc import Sequence

from muse_bench.analysis.modules import collapse_blocks, largest_contributors, sum_ledgers
from muse_bench.ledger import LEDGER_FIELDS, ModuleRow
from muse_bench.record import Record
from muse_bench.report import columns, words
from muse_bench.report.charts.bars import Bar, bars
from muse_bench.report.charts.picture import Picture
from muse_bench.report.charts.timeline import timeline
from muse_bench.report.charts.treemap import treemap
from muse_bench.units import format_mib

MODULES = 40  # that a treemap shows before it sums up the rest
HOLDERS = 5
LONGEST_NAME = 128  # of the 255 bytes that a name may have, with what stands before and behind it while it is written


def labels(records: Sequence[Record]) -> list[str]:
    """A label for each record that no other has: its model, what differs in the protocol, and a number if need be."""
    shown = (columns.MODEL, *columns.differing(records))
    return numbered([" ".join(column.text(record) for column in shown) for record in records])


def numbered(names: Sequence[str]) -> list[str]:
    """The names, each that is there already, in whatever case, with a number that makes it another."""
    taken: set[str] = set()
    found = []
    for name in names:
        others = (f"{name}-{number}" for number in itertools.count(2))
        free = next(other for other in itertools.chain([name], others) if other.lower() not in taken)
        taken.add(free.lower())
        found.append(free)
    return found


def pictures(records: Sequence[Record]) -> list[Picture]:
    """Every picture that the records give, each with a name of its own."""
    found = [comparison(records)]
    for record, label in zip(records, labels(records), strict=True):
        found += [step(record, label)] if record.timeline else []
        found += [modules(record, label)] if record.modules else []
    names = numbered([picture.name for picture in found])
    return [dataclasses.replace(picture, name=name) for picture, name in zip(found, names, strict=True)]


def comparison(records: Sequence[Record]) -> Picture:
    """The peaks of all records, stacked by what holds them."""
    rows = [_bar(record, label) for record, label in zip(records, labels(records), strict=True)]
    return Picture(
        name="bars",
        title="What holds each peak",
        says=f"Peak allocated MiB by category. {'; '.join(f'{row.label}: {row.end}' for row in rows)}.",
        draw=lambda palette: bars(rows, palette),
    )


def step(record: Record, label: str) -> Picture:
    """What is allocated through the step that peaks."""
    top = max(record.timeline, key=lambda point: point.ledger.total)
    held = [
        f"{words.plain(one.module)}, {words.CATEGORIES[one.category]}: {format_mib(one.held_bytes)} MiB"
        for one in largest_contributors(record, HOLDERS)
    ]
    return Picture(
        name=f"timeline-{_file_name(label)}",
        title=f"{label}: memory over one step",
        says=f"Peak of {format_mib(top.ledger.total)} MiB in the phase {words.plain(top.phase)}"
        + (f", held by {'; '.join(held)}." if held else "."),
        draw=lambda palette: timeline(record.timeline, held, palette),
    )


def modules(record: Record, label: str) -> Picture:
    """What each module holds of the peak."""
    rows = collapse_blocks(record.modules)
    if len(rows) > MODULES:
        rest = rows[MODULES - 1 :]
        others = ModuleRow(module=f"{len(rest)} others", ledger=sum_ledgers(row.ledger for row in rest))
        rows = [*rows[: MODULES - 1], others]
    largest = "; ".join(f"{words.plain(row.module)} {format_mib(row.ledger.total)} MiB" for row in rows[:HOLDERS])
    return Picture(
        name=f"modules-{_file_name(label)}",
        title=f"{label}: who holds the peak",
        says=f"Areas in proportion to bytes; equal blocks are summed. The largest: {largest}.",
        draw=lambda palette: treemap(rows, palette),
    )


def _bar(record: Record, label: str) -> Bar:
    peak = columns.PEAK.text(record)
    if record.peak_allocated_bytes is None or record.ledger is None:
        return Bar(label, {}, peak)
    return Bar(label, {part: getattr(record.ledger, part) for part in LEDGER_FIELDS}, f"{peak} MiB{_change(record)}")


def _change(record: Record) -> str:
    if not record.reduction:
        return ""
    return f", {words.percent_text(abs(record.reduction))} {'less' if record.reduction > 0 else 'more'}"


def _file_name(label: str) -> str:
    """The label in letters that every file system takes, and as many."""
    return re.sub(r"[^A-Za-z0-9._+=-]+", "-", label).strip("-.")[:LONGEST_NAME] or "model"
