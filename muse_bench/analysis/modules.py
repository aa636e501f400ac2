"""The parts of a model at the peak: equal blocks summed into one row, and the largest holders of bytes."""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from muse_bench.ledger import LEDGER_FIELDS, Ledger, ModuleRow
from muse_bench.record import Record

_INDEX = re.compile(r"(?<![^.])(\d+)(?![^.])")


@dataclass(frozen=True, slots=True)
class Contributor:
    """One module's bytes in one ledger category; `source` is where its class stands, as file.py:line."""

    module: str
    category: str
    held_bytes: int
    source: str | None = None


def sum_ledgers(ledgers: Iterable[Ledger]) -> Ledger:
    """The ledgers added up, part by part."""
    parts = zip(*(dataclasses.astuple(ledger) for ledger in ledgers), strict=True)
    return Ledger(**dict(zip(LEDGER_FIELDS, map(sum, parts), strict=False)))


def collapse_blocks(modules: Sequence[ModuleRow]) -> list[ModuleRow]:
    """The rows, largest first, with those that differ only in a block's number summed into one.

    Rows are summed only when their parameters are equal too: `head.0` and `head.1` may be different things.
    """
    groups: dict[tuple[str, int], list[ModuleRow]] = {}
    for row in modules:
        groups.setdefault((pattern(row.module), row.ledger.parameters), []).append(row)
    rows = [
        ModuleRow(
            module=span([row.module for row in group]),
            ledger=sum_ledgers(row.ledger for row in group),
            source=group[0].source,
        )
        for group in groups.values()
    ]
    return sorted(rows, key=lambda row: row.ledger.total, reverse=True)


def largest_contributors(record: Record, count: int) -> list[Contributor]:
    """What holds the most bytes at the peak, by module and category; by category alone without a module table."""
    rows = collapse_blocks(record.modules)
    if not rows and record.ledger is not None:
        rows = [ModuleRow(module="model", ledger=record.ledger)]
    held = [
        Contributor(row.module, category, getattr(row.ledger, category), row.source)
        for row in rows
        for category in LEDGER_FIELDS
    ]
    largest = sorted(held, key=lambda contributor: contributor.held_bytes, reverse=True)[:count]
    return [contributor for contributor in largest if contributor.held_bytes > 0]


def pattern(path: str) -> str:
    """The path with a star for the block's number: 'blocks.*.ffn'."""
    return _INDEX.sub("*", path, count=1)


def span(paths: Sequence[str]) -> str:
    """One path as it is, several as 'blocks.0-11.ffn'."""
    indices = [int(match[1]) for path in paths if (match := _INDEX.search(path))]
    if len(paths) == 1 or not indices:  # a path may be there twice
        return paths[0]
    return _INDEX.sub(f"{min(indices)}-{max(indices)}", paths[0], count=1)
