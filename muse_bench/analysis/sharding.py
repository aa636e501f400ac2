"""What sharing a case out among GPUs takes off the memory that it needs on each."""

import dataclasses
from collections.abc import Sequence

from muse_bench.record import Record

ALONE = "one GPU"


def reduced(records: Sequence[Record]) -> tuple[Record, ...]:
    """The records, the sharded ones with their reduction against the same case on one GPU, or why there is none."""
    alone = next((one for one in records if one.sharding is None), None)
    if alone is None:
        return tuple(records)
    return tuple(record if record.sharding is None else _beside(record, alone) for record in records)


def _beside(record: Record, alone: Record) -> Record:
    if alone.status != "ok":
        note = f"no reduction: on {ALONE} the same ended with {alone.status}: {alone.reason}"
        return dataclasses.replace(record, notes=(*record.notes, note))
    if record.peak_allocated_bytes is None or not alone.peak_allocated_bytes:
        return record
    reduction = 1 - record.peak_allocated_bytes / alone.peak_allocated_bytes
    return dataclasses.replace(record, reduction=reduction, reduction_against=ALONE)
