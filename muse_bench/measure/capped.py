"""Runs a case under a hard cap of this process's allocator, which is what a smaller GPU would leave it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from muse_bench.config import Case
from muse_bench.workload import build_workload


@dataclass(frozen=True, slots=True)
class CappedRun:
    """How it went, in bytes: `steps` ran, and all of them when `ran`.

    `outside_bytes` is what the device held besides the allocator's memory at the end, other processes included.
    `stopped_by_cap` says, of a run that ended, that the device had more to give and only the cap was in the way.
    """

    ran: bool
    steps: int
    cap_bytes: int
    context_bytes: int
    peak_reserved_bytes: int
    outside_bytes: int
    alloc_retries: int
    stopped_by_cap: bool


def run_capped(case: Case, context_bytes: int | None, say: Callable[[str], None]) -> CappedRun:
    """Builds the case and runs its warm-up and measured steps with no more than its limit less the context.

    Args:
        context_bytes: what the case's context is known to take, libraries included. None takes what the device holds
            before anything is built: other processes' memory counts as ours then.
    """
    cap, context = set_cap(case, context_bytes)
    device = torch.device("cuda", torch.cuda.current_device())
    steps, ran = 0, True
    try:
        say("building")
        work = build_workload(case, device)
        for index in range(steps_of(case)):
            say(f"capped step {index + 1} of {steps_of(case)}")
            work.step()
            torch.cuda.synchronize()
            steps = index + 1
    except torch.cuda.OutOfMemoryError:
        ran = False
    return CappedRun(
        ran=ran,
        steps=steps,
        cap_bytes=cap,
        context_bytes=context,
        peak_reserved_bytes=torch.cuda.max_memory_reserved(),
        outside_bytes=_outside_bytes(device),
        alloc_retries=torch.cuda.memory_stats().get("num_alloc_retries", 0),
        stopped_by_cap=not ran and torch.cuda.memory_reserved() + torch.cuda.mem_get_info(device)[0] >= cap,
    )


def set_cap(case: Case, context_bytes: int | None) -> tuple[int, int]:
    """This process's allocator may take no more than the case's limit less the context; returns these two, in bytes."""
    torch.cuda.init()
    device = torch.device("cuda", torch.cuda.current_device())
    total = torch.cuda.mem_get_info(device)[1]
    context = _outside_bytes(device) if context_bytes is None else context_bytes
    cap = min(max(case.limit_bytes - context, 0), total)
    torch.cuda.set_per_process_memory_fraction(cap / total, device)
    return cap, context


def steps_of(case: Case) -> int:
    """As many steps as a measurement looks at."""
    return 1 if case.single_step else max(case.warmup_steps, 1) + case.measured_steps


def _outside_bytes(device: torch.device) -> int:
    free, total = torch.cuda.mem_get_info(device)
    return total - free - torch.cuda.memory_reserved(device)
