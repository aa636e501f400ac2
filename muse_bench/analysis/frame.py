"""Records as a pandas DataFrame: one row a record, one column a field, nested fields flattened by prefix."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pandas as pd

from muse_bench.analysis.repeats import spreads
from muse_bench.ledger import LEDGER_FIELDS
from muse_bench.record import Proof, Record

NESTED = ("config", "ledger", "modules", "timeline", "of_ranks", "peers", "repeats")
NOT_SHOWN = ("case_id",)


def to_frame(records: Sequence[Record]) -> pd.DataFrame:
    """SPEC's fields as columns; the ledger's as `ledger_*`, the config's as `config_*`; missing stays missing.

    A case that ran several times says how often in `repeats`, and in `spread_*` how far each figure was apart.
    `host_bytes` is all that is kept in host memory, and `host_*_bytes` its parts.

    Whole numbers keep an integer type with missing values in the column, so that bytes never turn into floats.
    """
    rows = [_flatten(record) for record in records]
    columns = {name: _column([row.get(name) for row in rows]) for name in _names(rows)}
    return pd.DataFrame(columns)


def _flatten(record: Record) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if field.name == "config":
            flat |= {f"config_{name}": part for name, part in value.items()}
        elif field.name == "ledger":
            flat |= {f"ledger_{name}": getattr(value, name, None) for name in LEDGER_FIELDS}
        elif field.name == "proof":
            flat |= {f"proof_{part.name}": getattr(value, part.name, None) for part in dataclasses.fields(Proof)}
        elif field.name == "host_bytes":
            flat["host_bytes"] = record.host_total_bytes
            flat |= {f"host_{part.replace(' ', '_')}_bytes": size for part, size in (value or {}).items()}
        elif field.name == "peers":
            flat |= {f"peer_{name.replace('-', '_')}_bytes": answer for name, answer in value.items()}
        elif field.name == "notes":
            flat["notes"] = "; ".join(value) or None
        elif field.name == "repeats" and value:
            flat["repeats"] = len(value)
            flat |= {f"spread_{one.figure}": one.most - one.least for one in spreads(record)}
        elif field.name not in (*NESTED, *NOT_SHOWN):
            flat[field.name] = value
    return flat


def _names(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Every row's columns in the record's order, the configs' columns last: they differ between models."""
    names = dict.fromkeys(name for row in rows for name in row)
    return sorted(names, key=lambda name: name.startswith("config_"))


def _column(values: Sequence[Any]) -> pd.Series:
    present = [value for value in values if value is not None]
    if present and all(type(value) is int for value in present):
        return pd.Series(values, dtype="Int64")
    if present and all(type(value) in (int, float) for value in present):
        return pd.Series(values, dtype="Float64")
    return pd.Series(values, dtype="object")
