"""What a prediction answers: the case's step traced on `meta`, its allocations replayed, and what lies around them."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

from muse_bench.config import Case
from muse_bench.execution.settings import allocator_config
from muse_bench.predict.capacity import smallest_capacity_bytes
from muse_bench.predict.compiler import deferred_compiler
from muse_bench.predict.gpus import OWN_STREAM_BYTES, find_gpu
from muse_bench.predict.trace import trace_case
from muse_bench.timeline import captured_reserved_bytes, profile
from muse_bench.workload import Build, Workload, build_workload


def predicted_of_ranks(case: Case, say: Callable[[str], None]) -> dict[str, Any]:
    """The figures of the rank that takes the most, and those of each rank that was traced: the first and the last.

    The others lie between them: of rows that the ranks do not divide, the last ones have fewer.
    Raises: as `predicted_values`; UsageError where the model offers no plan for tensor parallelism.
    """
    from muse_bench.sharding.group import imagined

    found = {}
    for rank in sorted({0, case.ranks - 1}):
        with imagined(rank, case.ranks):
            found[rank], _ = predicted_values(case, lambda phase, rank=rank: say(f"rank {rank}: {phase}"))  # type: ignore[misc]
    worst = max(found.values(), key=lambda values: int(values["steady_peak_allocated_bytes"]))
    return {**worst, "of_ranks": found}


def predicted_values(
    case: Case, say: Callable[[str], None], *, smallest: bool = False, build: Build = build_workload
) -> tuple[dict[str, Any], Workload]:
    """The figures of the case on the GPU that it names, and the workload that was traced.

    `smallest` looks for the least memory that does, too.
    Raises: UntraceableModel; UsageError as building the workload does.
    """
    assert case.gpu is not None  # whoever asks names one
    gpu = find_gpu(case.gpu)
    with contextlib.nullcontext() if case.config is None else deferred_compiler():
        trace, work = trace_case(case, gpu, say, build)
    say("replaying the allocator")
    found = profile(trace, first_steady_step=case.first_steady_step, config=allocator_config())
    context = gpu.context_bytes + trace.libraries_bytes
    if case.execution == "graph":
        reserved = captured_reserved_bytes(trace, allocator_config(), captures=not case.single_step)
        found = dataclasses.replace(found, peak_reserved_bytes=reserved)
        context += OWN_STREAM_BYTES
    least = None
    if smallest:
        say("looking for the least memory that does")
        least = context + smallest_capacity_bytes(trace, allocator_config())
    figures = {
        "parameters": work.parameters,
        "host_bytes": work.host_bytes(),
        "to_device_bytes": None if work.traffic is None else work.traffic.to_device_bytes,
        "to_host_bytes": None if work.traffic is None else work.traffic.to_host_bytes,
        "new_token_to_device_bytes": work.new_token_bytes,
        "state_per_sequence_bytes": work.state_per_sequence_bytes,
        "context_bytes": context,
        "smallest_budget_bytes": least,
    }
    return {**dataclasses.asdict(found), **figures}, work
