"""Reductions: how much smaller a record's peak is than the baseline's, and only between runs of one protocol.

An inference peak over a training baseline is a number that means nothing, so there is no way to ask for it:
two records that differ in any of `PROTOCOL` or `SIZES` get no reduction, and a note that says why.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from muse_bench.errors import UsageError
from muse_bench.record import Record

PROTOCOL = (
    *("provenance", "gpu", "mode", "batch", "seq", "input_shape", "logits", "workspace_setting"),
    *("sharding", "ranks"),
)
SIZES = ("vocab_size", "d_model", "n_layers")
USUAL_BASELINES = ("baseline", "encoder")
NOTE = "no reduction against"


def choose_baseline(models: Sequence[str], wanted: str | None = None) -> str:
    """The model that the others are compared with: the wanted one, else a usual one, else the first.

    Raises: UsageError when the wanted one is not among the models.
    """
    if wanted is None:
        return next((name for name in USUAL_BASELINES if name in models), models[0])
    if wanted not in models:
        raise UsageError(
            f"--baseline '{wanted}' is not among the models: choose from {', '.join(dict.fromkeys(models))}"
        )
    return wanted


def add_reductions(records: Sequence[Record], baseline: str) -> tuple[Record, ...]:
    """The records with `reduction` (1 - peak / baseline's peak, a fraction) wherever a baseline row allows it."""
    rows = [record for record in records if record.model == baseline]
    return tuple(_add_reduction(record, rows, baseline) for record in records)


def refusal(record: Record, baseline: Record) -> str | None:
    """Why these two may not be divided; None when they may."""
    for name, ours, theirs in _compared(record, baseline):
        if ours != theirs:
            return f"{name.replace('_', ' ')} is {ours} here and {theirs} there"
    if not baseline.peak_allocated_bytes:
        return f"it has no peak ({baseline.status})"
    return None


def _compared(record: Record, baseline: Record) -> Iterator[tuple[str, Any, Any]]:
    for name in PROTOCOL:
        yield name, getattr(record, name), getattr(baseline, name)
    if record.mode == "decode":
        yield "new_tokens", record.new_tokens, baseline.new_tokens
    for name in SIZES:
        # A model from a user's factory has no config, hence no sizes to hold against the baseline's.
        if name in record.config and name in baseline.config:
            yield name, record.config[name], baseline.config[name]


def _add_reduction(record: Record, baselines: Sequence[Record], name: str) -> Record:
    notes = tuple(note for note in record.notes if not note.startswith(NOTE))
    cleared = dataclasses.replace(record, reduction=None, reduction_against=None, notes=notes)
    if record.peak_allocated_bytes is None or not baselines:
        return cleared
    refusals = [refusal(record, baseline) for baseline in baselines]
    if None not in refusals:
        return dataclasses.replace(cleared, notes=(*notes, f"{NOTE} '{name}': {refusals[0]}"))
    peak = baselines[refusals.index(None)].peak_allocated_bytes
    assert peak  # a baseline without a peak is refused
    return dataclasses.replace(cleared, reduction=1 - record.peak_allocated_bytes / peak, reduction_against=name)
