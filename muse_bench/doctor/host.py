"""The machine around the GPU: memory, pinned memory, WSL and the numbers of processes. Imports no torch."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muse_bench.doctor.record import Fact
from muse_bench.host_memory import PROC, available_bytes, limit_bytes, total_bytes
from muse_bench.link import GB
from muse_bench.measure.nvml import ATTRIBUTED, NOT_LISTED, DeviceView
from muse_bench.units import format_bytes

FIRST_PIDS = "pid:[4026531836]"  # PROC_PID_INIT_INO of the kernel: the namespace that is in no container


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What files and limits say; None where none does.

    `pinned_limit_bytes` is what this process may lock in memory, None for any amount. `contains_pids` tells a
    namespace of process ids that is not the machine's own, where NVML has other numbers than this process sees.
    """

    total_bytes: int | None = None
    available_bytes: int | None = None
    limit_bytes: int | None = None
    pinned_limit_bytes: int | None = None
    is_wsl: bool = False
    contains_pids: bool = False

    @classmethod
    def seen(cls, proc: Path = PROC) -> "Host":
        """That of this process."""
        return cls(
            total_bytes=total_bytes(proc),
            available_bytes=available_bytes(proc),
            limit_bytes=limit_bytes(proc),
            pinned_limit_bytes=_pinned_limit(),
            is_wsl="microsoft" in _text(proc / "sys" / "kernel" / "osrelease").lower(),
            contains_pids=_contains_pids(proc),
        )


def host_facts(host: Host, link: Mapping[str, Any] | None, view: DeviceView | None) -> Iterator[Fact]:
    """A line for each of them; those of the link and of process ids where a GPU was used."""
    if host.is_wsl:
        yield Fact(
            "WSL",
            "warning",
            "a GPU under WSL: NVML has no memory of single processes, and the driver may spill into system memory",
            "trust allocated and reserved; forbid the spill (CUDA - Sysmem Fallback Policy) in NVIDIA's control panel",
        )
    yield _memory(host)
    yield _pinned(host, link)
    if link is not None and link.get("rates") is not None:
        yield _link(link["rates"])
    if view is not None:
        yield _pids(host, view)


def _memory(host: Host) -> Fact:
    if host.available_bytes is None:
        return Fact("host memory", "missing", "the system does not say", "give --host-memory where models lie in it")
    found = f"{format_bytes(host.available_bytes)} available of {format_bytes(host.total_bytes)}"
    if host.limit_bytes is not None and (host.total_bytes is None or host.limit_bytes < host.total_bytes):
        found += f", {format_bytes(host.limit_bytes)} for this process's control group"
    return Fact("host memory", "ok", found)


def _pinned(host: Host, link: Mapping[str, Any] | None) -> Fact:
    """CUDA's driver may pin beyond the limit, so the try counts, where there was one."""
    limit = host.pinned_limit_bytes
    said = f"{'no limit' if limit is None else f'a limit of {format_bytes(limit)}'} on locked memory (ulimit -l)"
    if link is None:
        return Fact("pinned memory", "ok", said)
    if link["refused"] is None:
        return Fact("pinned memory", "ok", f"{format_bytes(link['pinned_bytes'])} were pinned; {said}")
    advice = "free memory or raise the limit (--ulimit memlock=-1 for a container); models in host memory need it"
    return Fact("pinned memory", "warning", f"{link['refused']}; {said}", advice)


def _link(rates: Mapping[str, float]) -> Fact:
    inward, outward, both = (rates[name] / GB for name in ("to_device", "to_host", "both"))
    found = f"{inward:.1f} GB/s to the device, {outward:.1f} back, {both:.1f} each way at once"
    return Fact("host link", "ok", found)


def _pids(host: Host, view: DeviceView) -> Fact:
    """Whether NVML's list has this process, whose number it may not know."""
    if not host.contains_pids:
        return Fact("process ids", "ok", "the machine's own, as NVML has them")
    if view.process_peak_bytes is None and NOT_LISTED not in (view.unavailable_reason or ""):
        return Fact("process ids", "warning", "a container's: whether NVML has the same is not known", "see NVML")
    if view.process_peak_bytes is None:
        advice = "start the container with --pid=host for figures of the whole device"
        return Fact("process ids", "warning", "a container's: NVML has others, and this process was not found", advice)
    if view.note is not None and ATTRIBUTED in view.note:
        found = "a container's: NVML has others; this process was found as the only one that came"
        return Fact("process ids", "ok", found, "measure while nothing else starts on the GPU, or use --pid=host")
    return Fact("process ids", "ok", "a container's, and NVML has the same")


def _pinned_limit() -> int | None:
    with contextlib.suppress(ImportError):  # Windows has no such limits
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        return None if soft == resource.RLIM_INFINITY else soft
    return None


def _contains_pids(proc: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.readlink(proc / "self" / "ns" / "pid") != FIRST_PIDS
    return False


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""
