"""What workers answer, and what the device's sampler saw, filled into a record."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from muse_bench.config import Case
from muse_bench.errors import UsageError
from muse_bench.execution.protocol import Result
from muse_bench.ledger import Ledger, ModuleRow, TimelinePoint
from muse_bench.link import LinkRates
from muse_bench.measure.nvml import DeviceView
from muse_bench.predict.gpus import Gpu
from muse_bench.record import Proof, Record
from muse_bench.units import MIB, format_bytes


def failure(record: Record, result: Result) -> Record | None:
    if result["status"] == "ok":
        return None
    if result["status"] == "usage":
        raise UsageError(str(result["reason"]))
    return dataclasses.replace(record, status=result["status"], reason=result["reason"])


def explained(record: Record, values: dict[str, Any]) -> Record:
    return dataclasses.replace(
        record,
        ledger=Ledger(**values["ledger"]),
        modules=tuple(
            ModuleRow(module=row["module"], ledger=Ledger(**row["ledger"]), source=row.get("source"))
            for row in values["modules"]
        ),
        timeline=tuple(
            TimelinePoint(phase=point["phase"], ledger=Ledger(**point["ledger"])) for point in values["timeline"]
        ),
    )


def closed(record: Record) -> Record:
    """What the ledger of another run and this record's peak differ by is unattributed."""
    assert record.ledger is not None
    assert record.peak_allocated_bytes is not None
    difference = record.peak_allocated_bytes - record.ledger.total
    ledger = dataclasses.replace(record.ledger, unattributed=record.ledger.unattributed + difference)
    return dataclasses.replace(record, ledger=ledger)


def predicted(record: Record, case: Case, values: dict[str, Any], gpu: Gpu) -> Record:
    """The record of a prediction, in full."""
    peak_reserved = values["peak_reserved_bytes"]
    return dataclasses.replace(
        explained(record, values),
        parameters=values["parameters"],
        state_per_sequence_bytes=values.get("state_per_sequence_bytes"),
        peak_allocated_bytes=values["cold_peak_allocated_bytes" if case.single_step else "steady_peak_allocated_bytes"],
        cold_peak_allocated_bytes=values["cold_peak_allocated_bytes"],
        peak_reserved_bytes=peak_reserved,
        host_bytes=values["host_bytes"],
        **link_fields(values, gpu),
        context_bytes=values["context_bytes"],
        context_source=gpu.context_source,
        smallest_budget_bytes=values.get("smallest_budget_bytes"),
        device_peak_bytes=values["context_bytes"] + peak_reserved,
        device_peak_provenance="predicted",
    )


def link_fields(values: dict[str, Any], gpu: Gpu) -> dict[str, Any]:
    """What crosses the link between host and device, and the least that takes; no time where nothing does."""
    inward, outward = values.get("to_device_bytes"), values.get("to_host_bytes")
    each = values.get("new_token_to_device_bytes")
    crosses = bool(inward or outward)
    return {
        "to_device_bytes": inward,
        "to_host_bytes": outward,
        "new_token_to_device_bytes": each,
        "link_seconds": gpu.link_seconds(inward or 0, outward or 0) if crosses else None,
        "new_token_link_seconds": gpu.link_seconds(each, 0) if each else None,
        "link_source": gpu.host_link_source if crosses else None,
    }


def with_device(record: Record, view: DeviceView) -> Record:
    """Adds the whole device's view; the context is what the process held beyond the allocator's reserved memory."""
    notes = [note for note in (view.unavailable_reason, view.note) if note]
    for other in view.other_processes or ():
        size = "an unknown amount" if other.used_bytes is None else f"{other.used_bytes >> 20} MiB"
        notes.append(f"other processes on the GPU: pid {other.pid} ({other.name or 'unknown'}) holds {size}")
    reserved, peak = record.peak_reserved_bytes, view.process_peak_bytes
    context = None if peak is None or reserved is None or peak < reserved else peak - reserved
    return dataclasses.replace(
        record,
        device_peak_bytes=peak,
        device_peak_provenance=None if peak is None else "sampled",
        context_bytes=context,
        notes=(*record.notes, *notes),
    )


def with_link(record: Record, rates: dict[str, Any] | None) -> Record:
    """Adds the least times that the record's copies take, at the rates that the same process saw."""
    if rates is None or not (record.to_device_bytes or record.to_host_bytes):
        return record
    link, each = LinkRates(**rates), record.new_token_to_device_bytes
    return dataclasses.replace(
        record,
        link_seconds=link.seconds(record.to_device_bytes or 0, record.to_host_bytes or 0),
        new_token_link_seconds=link.seconds(each, 0) if each else None,
        link_source=link.source,
    )


def with_cap(record: Record, capped: dict[str, Any] | None, case: Case) -> Record:
    """Adds the proof that a run under a cap is by itself, if the context left it no more than it had."""
    if capped is None:
        return record
    steps = 1 if case.single_step else max(case.warmup_steps, 1) + case.measured_steps
    proof = Proof(ran=True, steps=steps, **capped)
    if record.device_peak_bytes is not None and record.device_peak_bytes > case.limit_bytes:
        return noted(record, f"no proof: the device held {format_bytes(record.device_peak_bytes)} under the cap")
    return dataclasses.replace(record, proof=proof)


def what_would_do(predicted: dict[str, Any], case: Case) -> str:
    """The budget that a prediction asks for, with the case's headroom."""
    device = predicted["context_bytes"] + predicted["peak_reserved_bytes"]
    budget = -(-device // int(MIB * (1 - case.headroom)))
    return f"predicted to need {format_bytes(device)} of the device: give --budget {budget}MiB or more"


def with_tries(record: Record, reasons: Sequence[str]) -> Record:
    """Adds how many tries it took, when those before this one crashed."""
    if not reasons:
        return record
    return noted(record, f"took {len(reasons) + 1} tries; before: {'; '.join(dict.fromkeys(reasons))}")


def noted(record: Record, note: str) -> Record:
    return dataclasses.replace(record, notes=(*record.notes, note))
