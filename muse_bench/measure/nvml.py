"""The whole device's memory through NVML, sampled from outside the process that is measured.

Nothing here raises for want of a GPU: whatever NVML cannot say is None, and the reason is in the result.
Polling sees less than the true peak, never more.
"""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from muse_bench.measure.nvml_device import (
    NO_PROCESS_LIST,
    Device,
    UnavailableError,
    failures,
    open_device,
    start_nvml,
    stop_nvml,
)

Answer = TypeVar("Answer")
PATIENCE_SECONDS = 10.0  # a driver that has lost its GPU may not answer at all
SILENT = f"NVML has not answered for {PATIENCE_SECONDS:g} s"
NOT_STARTED = "the NVML sampler was not started"
NO_PROCESS = "no process was named to be watched"
NO_PROCESS_FIGURE = "the driver gives no per-process figure (WSL, Windows, MIG or a container)"
NOT_LISTED = "NVML does not list the process: it used no GPU, or the container's own pid namespace hides it"
ATTRIBUTED = (
    "process not in NVML's list: its pid is mapped by the container; the only process that came to the device "
    "is taken to be it"
)


class OtherProcess(NamedTuple):
    """A compute process on the device besides the watched one; None where NVML does not say."""

    pid: int
    name: str | None
    used_bytes: int | None


class DeviceName(NamedTuple):
    """Which device it is, `GPU-...` or `MIG-...`, and the name of its model."""

    uuid: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceView:
    """What NVML saw from start to stop; a figure that it could not give is None, and the reason says why."""

    process_peak_bytes: int | None = None
    device_used_before_bytes: int | None = None
    device_used_peak_bytes: int | None = None
    other_processes: tuple[OtherProcess, ...] | None = None
    samples: int = 0
    interval_seconds: float
    unavailable_reason: str | None = None
    note: str | None = None


class NvmlSampler:
    """Polls one device in a thread while another process runs.

    Args:
        device_index: CUDA's number of the device, seen through CUDA_VISIBLE_DEVICES.
        pid: the process to watch; None until `watch` names it.
        device_uuid: surer than the index; as NVML or torch.cuda.get_device_properties writes it.
    """

    def __init__(
        self,
        device_index: int = 0,
        pid: int | None = None,
        interval_seconds: float = 0.005,
        device_uuid: str | None = None,
    ) -> None:
        self._device_index = device_index
        self._device_uuid = device_uuid
        self._pid = pid
        self._interval_seconds = interval_seconds
        self._device: Device | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._failure: str | None = NOT_STARTED
        self._view: DeviceView | None = None
        self._samples = 0
        self._used_before: int | None = None
        self._used_peak: int | None = None
        self._first: dict[int, int | None] = {}
        self._peak: dict[int, int | None] = {}
        self._names: dict[int, str | None] = {}
        self._before: frozenset[int] = frozenset()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Self:
        """Takes the reading before the run and begins to poll."""
        try:
            self._device = open_device(self._device_index, self._device_uuid, os.environ)
        except UnavailableError as error:
            self._failure = str(error)
            return self
        self._failure = None
        if self._try_sample():
            self._used_before = self._used_peak
            self._before = frozenset(self._peak)
            self._thread = threading.Thread(target=self._poll, name="nvml-sampler", daemon=True)
            self._thread.start()
        return self

    def watch(self, pid: int) -> None:
        """Names the process whose memory is wanted, once it has been started."""
        self._pid = pid

    def stop(self) -> DeviceView:
        """Ends the polling; what was seen. A second call returns the same."""
        if self._view is None:
            self._stopping.set()
            if self._thread is not None:
                self._thread.join(PATIENCE_SECONDS)
                if self._thread.is_alive():
                    self._view = DeviceView(interval_seconds=self._interval_seconds, unavailable_reason=SILENT)
                    return self._view
                self._try_sample()
            ending = None if self._device is None else self._device.close()
            self._view = self._summarise(ending)
        return self._view

    def _poll(self) -> None:
        while not self._stopping.wait(self._interval_seconds) and self._try_sample():
            pass

    def _try_sample(self) -> bool:
        if self._failure is not None or self._device is None:
            return False
        try:
            self._sample(self._device)
        except Exception as error:  # of whatever kind: a thread that ends unseen would pass a part's peak for the run's
            self._failure = f"NVML failed after {self._samples} samples: {error}"
        return self._failure is None

    def _sample(self, device: Device) -> None:
        self._used_peak = _larger(self._used_peak, device.used_bytes())
        for pid, used in (device.processes() or {}).items():
            if pid not in self._first:
                self._first[pid] = used
                self._names[pid] = device.process_name(pid)
            self._peak[pid] = _larger(self._peak.get(pid), used)
        self._samples += 1

    def _own_pid(self) -> int | None:
        """The watched process as NVML numbers it: listed, or the only one that can be meant."""
        if self._pid is None or self._pid in self._peak:
            return self._pid
        came = [pid for pid in self._peak if pid not in self._before]
        return came[0] if len(came) == 1 and self._may_be_mapped(came[0]) else None

    def _may_be_mapped(self, pid: int) -> bool:
        """Whether it grew, and is no process of this pid namespace: ours would carry its own number there."""
        first, peak = self._first[pid], self._peak[pid]
        return first is not None and peak is not None and peak > first and not os.path.exists(f"/proc/{pid}")

    def _summarise(self, ending: str | None) -> DeviceView:
        """The figures; after a failure none, since peaks of a part of the run would pass for peaks of it."""
        if self._device is None or self._failure is not None:
            return DeviceView(
                samples=self._samples,
                interval_seconds=self._interval_seconds,
                unavailable_reason=self._failure,
            )
        own = self._own_pid()
        process_peak = None if own is None else self._peak.get(own)
        reasons, notes = list(self._device.reasons), list(self._device.notes)
        if process_peak is None and NO_PROCESS_LIST not in reasons:
            reasons.append(self._why_no_process_peak(own))
        if own is not None and own != self._pid:
            notes.append(ATTRIBUTED)
        if ending is not None:
            notes.append(ending)
        return DeviceView(
            process_peak_bytes=process_peak,
            device_used_before_bytes=self._used_before,
            device_used_peak_bytes=self._used_peak,
            other_processes=None if NO_PROCESS_LIST in reasons else self._others(own),
            samples=self._samples,
            interval_seconds=self._interval_seconds,
            unavailable_reason="; ".join(reasons) or None,
            note="; ".join(notes) or None,
        )

    def _why_no_process_peak(self, own: int | None) -> str:
        if self._pid is None:
            return NO_PROCESS
        return NO_PROCESS_FIGURE if own in self._peak else NOT_LISTED

    def _others(self, own: int | None) -> tuple[OtherProcess, ...]:
        return tuple(
            OtherProcess(pid, self._names[pid], peak) for pid, peak in sorted(self._peak.items()) if pid != own
        )


def _larger(first: int | None, second: int | None) -> int | None:
    """The larger of two figures of which either may be missing."""
    return max((figure for figure in (first, second) if figure is not None), default=None)


def device_title(device_index: int = 0) -> str:
    """The device's name as CUDA has it, asked without a CUDA context.

    Raises: UnavailableError when there is no such device, or NVML cannot say.
    """
    return _ask(device_index, None, Device.title)


def device_name(device_index: int = 0, device_uuid: str | None = None) -> DeviceName:
    """The device's own name and its model's. Raises: UnavailableError as `device_title`."""
    return _ask(device_index, device_uuid, lambda device: DeviceName(device.uuid(), device.title()))


def _ask(index: int, uuid: str | None, question: Callable[[Device], Answer]) -> Answer:
    device = open_device(index, uuid, os.environ)
    try:
        return question(device)
    except device.failures as error:
        raise UnavailableError(f"NVML does not name device {uuid or index}: {error}") from error
    finally:
        device.close()


def driver_version() -> str | None:
    """The driver's version; None without NVML."""
    try:
        nvml = start_nvml()
    except UnavailableError:
        return None
    try:
        return str(nvml.nvmlSystemGetDriverVersion())
    except failures(nvml):
        return None
    finally:
        stop_nvml(nvml)


def other_processes(device_index: int = 0, device_uuid: str | None = None) -> tuple[OtherProcess, ...] | None:
    """The compute processes on the device now, besides this one; None when NVML cannot say."""
    return NvmlSampler(device_index, os.getpid(), device_uuid=device_uuid).start().stop().other_processes
