"""What can be measured on a machine, and for what cannot, what to do. Imports no torch."""

import dataclasses

from muse_bench.doctor.machine import Machine
from muse_bench.doctor.record import Ability
from muse_bench.units import format_bytes

NEEDS = "needs a CUDA GPU"


def abilities(machine: Machine) -> tuple[Ability, ...]:
    """A line for each kind of figure: where it comes from here."""
    return (
        _peaks(machine),
        _from_gpu("time of a step", machine, "by events on the GPU"),
        _device(machine),
        _from_gpu("proof of a budget", machine, "verify-8gb --prove runs under a cap of the allocator"),
        _host_models(machine),
        _kernels(machine),
    )


def _peaks(machine: Machine) -> Ability:
    what = "peaks and ledger"
    if machine.worker_failure is not None:
        return Ability(what, "unavailable", "torch does not start", "see torch")
    if machine.measures:
        return Ability(what, "measured", "by the allocator's own counters and history")
    return Ability(what, "predicted", "for the GPU that --gpu names", _how_to_measure(machine))


def _from_gpu(what: str, machine: Machine, how: str) -> Ability:
    if machine.measures:
        return Ability(what, "measured", how)
    return Ability(what, "unavailable", NEEDS, _how_to_measure(machine))


def _device(machine: Machine) -> Ability:
    """NVML's figure of one process, which some drivers do not have."""
    what, view = "peak of the device", machine.view
    if machine.worker_failure is not None:
        return Ability(what, "unavailable", "torch does not start", "see torch")
    if not machine.measures:
        return Ability(what, "predicted", "reserved, and the context in the table of GPUs", _how_to_measure(machine))
    if view is not None and view.process_peak_bytes is not None:
        return Ability(what, "sampled", f"by NVML, every {view.interval_seconds * 1_000:g} ms")
    reason = (view and view.unavailable_reason) or machine.driver.unavailable or "NVML is silent"
    return Ability(what, "unavailable", reason, "judge by reserved, or verify-8gb --prove, which needs no NVML")


def _host_models(machine: Machine) -> Ability:
    what = "models in host memory"
    if not machine.measures:
        return dataclasses.replace(_peaks(machine), what=what)
    available = machine.host.available_bytes
    room = "as much as the system has" if available is None else f"up to {format_bytes(available)}"
    if machine.link is not None and machine.link["refused"] is not None:
        return Ability(what, "unavailable", machine.link["refused"], "see pinned memory, or --host-folder with a disk")
    return Ability(what, "measured", room)


def _kernels(machine: Machine) -> Ability:
    what = "speed of kernels"
    if machine.measures and not machine.checks_kernels:
        return Ability(what, "unavailable", "Triton does not work", "see Triton")
    return _from_gpu(what, machine, "muse-bench kernels")


def _how_to_measure(machine: Machine) -> str:
    if machine.driver.title is not None or machine.gpu_failure is not None:
        return "see CUDA"
    return "use a machine with a CUDA GPU"
