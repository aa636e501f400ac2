"""A device as NVML reaches it: found as CUDA would number it, asked without raising for what it lacks."""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

NOT_INSTALLED = "NVML is not installed (package nvidia-ml-py)"
NO_DEVICE_FIGURE = "the driver gives no memory figure for the device"
NO_PROCESS_LIST = "the driver does not list the device's processes"
FIRST_CALL_ONLY = "the driver has only NVML's first memory call: device figures include what it reserves"
BY_INDEX = "device taken by its index, though CUDA may number devices otherwise (CUDA_DEVICE_ORDER)"


class UnavailableError(Exception):
    """NVML or the device cannot be reached; the message is the reason."""


class Device:
    """An opened GPU or MIG instance. What it does not support answers None and leaves a reason.

    Its methods raise one of `failures` when NVML breaks, which is another thing than not supporting a call.
    """

    def __init__(self, nvml: Any, handle: Any, notes: list[str]) -> None:
        self._nvml = nvml
        self._handle = handle
        self._has_second_call = True
        self.failures = failures(nvml)
        self.notes = notes
        self.reasons: list[str] = []

    def used_bytes(self) -> int | None:
        """Memory in use on the device, without what the driver reserves."""
        used = self._ask(self._memory_used, NO_DEVICE_FIGURE)
        return None if used is None else int(used)

    def processes(self) -> dict[int, int | None] | None:
        """Bytes of each compute process by pid."""
        listed = self._ask(self._compute_processes, NO_PROCESS_LIST)
        return None if listed is None else {process.pid: process.usedGpuMemory for process in listed}

    def title(self) -> str:
        """The name that CUDA has for the device too. Raises: one of `failures`."""
        name = self._nvml.nvmlDeviceGetName(self._handle)
        return name.decode() if isinstance(name, bytes) else str(name)  # bytes before pynvml 11.5

    def uuid(self) -> str:
        """What names this device alone. Raises: one of `failures`."""
        uuid = self._nvml.nvmlDeviceGetUUID(self._handle)
        return uuid.decode() if isinstance(uuid, bytes) else str(uuid)

    def process_name(self, pid: int) -> str | None:
        """The program of a process; None when it is gone or hidden."""
        try:
            return os.path.basename(self._nvml.nvmlSystemGetProcessName(pid)) or None
        except self.failures:
            return None

    def close(self) -> str | None:
        """Ends NVML; what went wrong, if anything did."""
        return stop_nvml(self._nvml)

    def _compute_processes(self) -> Any:
        return self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)

    def _memory_used(self) -> Any:
        if self._has_second_call:
            try:
                version = self._nvml.nvmlMemory_v2
                return self._nvml.nvmlDeviceGetMemoryInfo(self._handle, version=version).used
            except (self._nvml.NVMLError_FunctionNotFound, AttributeError, TypeError):
                self._has_second_call = False
                self.notes.append(FIRST_CALL_ONLY)
        return self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used

    def _ask(self, call: Callable[[], Any], reason: str) -> Any:
        try:
            answer = call()
        except (self._nvml.NVMLError_NotSupported, self._nvml.NVMLError_NoPermission):
            answer = None
        if answer is None and reason not in self.reasons:
            self.reasons.append(reason)
        return answer


def start_nvml() -> Any:
    """The pynvml module with NVML started.

    Raises: UnavailableError when the package, the library or the driver is missing.
    """
    try:
        import pynvml
    except ImportError as error:
        raise UnavailableError(NOT_INSTALLED) from error
    try:
        pynvml.nvmlInit()
    except failures(pynvml) as error:
        raise UnavailableError(f"NVML could not start: {error}") from error
    return pynvml


def stop_nvml(nvml: Any) -> str | None:
    """Ends NVML; what went wrong, if anything did."""
    try:
        nvml.nvmlShutdown()
    except failures(nvml) as error:
        return f"NVML did not end: {error}"
    return None


def failures(nvml: Any, *others: type[Exception]) -> tuple[type[Exception], ...]:
    """What pynvml raises: its own errors, and Python's where its version and the driver's disagree; and the others."""
    return (nvml.NVMLError, AttributeError, OSError, TypeError, ValueError, *others)


def open_device(index: int, uuid: str | None, environment: Mapping[str, str]) -> Device:
    """The device of this uuid or, without one, the device that CUDA numbers `index`.

    Raises: UnavailableError when NVML cannot start, or has no such device.
    """
    nvml = start_nvml()
    try:
        return _find(nvml, index, uuid, environment)
    except failures(nvml, UnavailableError) as error:
        stop_nvml(nvml)
        raise UnavailableError(f"NVML could not open device {uuid or index}: {error}") from error


def _find(nvml: Any, index: int, uuid: str | None, environment: Mapping[str, str]) -> Device:
    notes: list[str] = []
    name = uuid or _visible(index, environment.get("CUDA_VISIBLE_DEVICES"))
    if name.isdigit():
        handle = nvml.nvmlDeviceGetHandleByIndex(int(name))
        if nvml.nvmlDeviceGetCount() > 1 and environment.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
            notes.append(BY_INDEX)
    else:
        handle = _handle_by_uuid(nvml, name)
    return Device(nvml, _first_instance(nvml, handle), notes)


def _visible(index: int, setting: str | None) -> str:
    """NVML's index or the uuid of CUDA's device `index` under CUDA_VISIBLE_DEVICES."""
    if setting is None:
        return str(index)
    visible: list[str] = []
    for name in (part.strip() for part in setting.split(",")):
        if not re.fullmatch(r"\d+|(GPU|MIG)-.+", name, re.ASCII):
            break  # as CUDA does: the first word that names no device ends the list
        visible.append(name)
    if index >= len(visible):
        raise UnavailableError(f"CUDA_VISIBLE_DEVICES={setting!r} hides it")
    return visible[index]


def _handle_by_uuid(nvml: Any, uuid: str) -> Any:
    """By a full uuid, by PyTorch's (no prefix), or by the abbreviation that CUDA accepts."""
    spellings = [uuid] if uuid.startswith(("GPU-", "MIG-")) else [f"GPU-{uuid}", f"MIG-{uuid}"]
    for spelling in spellings:
        try:
            return nvml.nvmlDeviceGetHandleByUUID(spelling)
        except nvml.NVMLError:
            continue
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    matches = [handle for handle in handles if nvml.nvmlDeviceGetUUID(handle).startswith(spellings[0])]
    if len(matches) != 1:
        raise UnavailableError("no such device")
    return matches[0]


def physical_handle(nvml: Any, environment: Mapping[str, str]) -> Any:
    """The GPU that CUDA uses first, or that the MIG instance which it uses first is a part of.

    Raises: UnavailableError, or one of `failures`, when there is none.
    """
    name = _visible(0, environment.get("CUDA_VISIBLE_DEVICES"))
    if name.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(name))
    handle = _handle_by_uuid(nvml, name)
    return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle) if name.startswith("MIG-") else handle


def _first_instance(nvml: Any, handle: Any) -> Any:
    """In MIG mode the first instance, which is the one that CUDA uses; else the device itself."""
    try:
        in_mig_mode = nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE
    except (nvml.NVMLError, AttributeError):
        return handle  # a GPU that has no MIG, or an instance already
    return nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, 0) if in_mig_mode else handle
