"""Measures a workload on the CUDA device of this process, which must be fresh: nothing else may have run on it."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from muse_bench.config import Case
from muse_bench.sharding.settling import settle
from muse_bench.workload import Workload

TIMED_STEPS = 10
TIMED_SECONDS = 3.0
WARM_SECONDS = 1.0  # a run that takes as long has nothing left to warm up
SETTLE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Peaks:
    """What the allocator's own counters say of a run, in bytes, and what it keeps in host memory; times in seconds."""

    parameters: int
    cold_peak_allocated_bytes: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    host_bytes: dict[str, int] | None
    to_device_bytes: int | None
    to_host_bytes: int | None
    new_token_to_device_bytes: int | None
    step_time_seconds: float
    tokens_per_second: float | None
    prefill_seconds: float | None
    new_token_seconds: float | None
    state_per_sequence_bytes: int | None


def measure_peaks(work: Workload, say: Callable[[str], None], protocol_over: Callable[[], None]) -> Peaks:
    """Runs what was built: the cold peak of the first step, the steady peak after the warm-up, then the time.

    `protocol_over` is called before the steps that only measure time.

    Raises: torch.cuda.OutOfMemoryError when it does not fit.
    """
    case = work.case
    say("first step")
    cold = _peak_of(work, 1)
    steady = cold
    if not case.single_step:
        for _ in range(case.warmup_steps - 1):
            work.step()
        settle(case)
        say("steady steps")
        steady = _peak_of(work, case.measured_steps)
    reserved = torch.cuda.max_memory_reserved()
    time.sleep(SETTLE_SECONDS)  # reserved memory stays: the device's sampler sees it before what follows changes it
    protocol_over()
    seconds = _time_of(work, work.step, warm=2)
    return Peaks(
        parameters=work.parameters,
        cold_peak_allocated_bytes=cold,
        peak_allocated_bytes=steady if case.warmup_steps else max(cold, steady),
        peak_reserved_bytes=reserved,
        host_bytes=work.host_bytes(),
        to_device_bytes=None if work.traffic is None else work.traffic.to_device_bytes,
        to_host_bytes=None if work.traffic is None else work.traffic.to_host_bytes,
        new_token_to_device_bytes=work.new_token_bytes,
        step_time_seconds=seconds,
        **_speeds(work, seconds),
        state_per_sequence_bytes=work.state_per_sequence_bytes,
    )


def _peak_of(work: Workload, steps: int) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(steps):
        work.step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def _speeds(work: Workload, step_seconds: float) -> dict[str, float | None]:
    """Tokens a second; in decode those generated after the prompt was read, and the times of both."""
    if work.case.mode != "decode":
        return {
            "tokens_per_second": None if work.tokens_per_step is None else work.tokens_per_step / step_seconds,
            "prefill_seconds": None,
            "new_token_seconds": None,
        }
    prefill = _time_of(work, work.read_prompt, warm=2)
    return decode_speeds(work.case, step_seconds, prefill)


def decode_speeds(case: Case, step_seconds: float, prefill_seconds: float) -> dict[str, float | None]:
    """The prompt gives the first new token; what a step takes beyond that is spread over the others."""
    others = case.new_tokens - 1
    each = (step_seconds - prefill_seconds) / others if others and step_seconds > prefill_seconds else None
    return {
        "tokens_per_second": None if each is None else case.batch / each,
        "prefill_seconds": prefill_seconds,
        "new_token_seconds": each,
    }


def _time_of(work: Workload, run: Callable[[], None], warm: int) -> float:
    """The median of up to TIMED_STEPS runs in seconds, by events on the device, after some to warm up unless long."""
    times: list[float] = []
    begun = time.monotonic()
    for index in range(TIMED_STEPS + warm):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        if work.optimizer is None:  # outside the timed region: the protocol itself keeps its gradients
            work.model.zero_grad(set_to_none=True)
        seconds = start.elapsed_time(end) / 1_000
        if index >= warm or seconds > WARM_SECONDS:
            times.append(seconds)
        if times and time.monotonic() - begun > TIMED_SECONDS and work.case.sharding is None:
            break  # ranks that went by their own clocks would wait for one another
    return statistics.median(times)
