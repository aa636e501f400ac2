"""What sharing a case out among GPUs takes off the memory that it needs on each."""

import dataclasses
from collections.abc import Sequence

from muse_bench.record import Record

ALONE = "one GPU"


def reduced(records: Sequence[Record]) -> tuple[Record, ...]:
    """The records, the sharded one with its reduction against the same case on one GPU, where both ran."""
    alone = next((one for one in records if one.sharding is None and one.status == "ok"), None)
    if alone is None or not alone.peak_allocated_bytes:
        return tuple(records)
    peak = alone.peak_allocated_bytes

    def beside(record: Record) -> Record:
        if record.sharding is None or record.peak_allocated_bytes is None:
            return record
        return dataclasses.replace(record, reduction=1 - record.peak_allocated_bytes / peak, reduction_against=ALONE)

    return tuple(map(beside, records))
