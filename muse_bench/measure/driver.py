"""What NVML says of the driver and the first GPU, with nothing running there. Imports no torch."""

import contextlib
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from muse_bench.measure.nvml_device import (
    UnavailableError,
    failures,
    open_device,
    physical_handle,
    start_nvml,
    stop_nvml,
)

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Instance:
    """A part of a GPU in MIG mode."""

    title: str
    uuid: str
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """A reason is None where there is nothing to explain, a figure where NVML does not have it.

    `cuda` is the newest CUDA that the driver runs, as (major, minor). `is_mig` is None on a GPU without that mode.
    """

    unavailable: str | None = None
    version: str | None = None
    cuda: tuple[int, int] | None = None
    title: str | None = None
    title_unavailable: str | None = None
    is_mig: bool | None = None
    instances: tuple[Instance, ...] = ()

    @classmethod
    def seen(cls) -> "Driver":
        """That of this machine; NVML may fail at any of its calls, and the others are kept."""
        try:
            nvml = start_nvml()
        except UnavailableError as error:
            return cls(unavailable=str(error))
        try:
            return cls(
                version=_ask(nvml, lambda: str(nvml.nvmlSystemGetDriverVersion())),
                cuda=_ask(nvml, lambda: _release(nvml.nvmlSystemGetCudaDriverVersion_v2())),
                **_mig(nvml),
                **_title(),
            )
        finally:
            stop_nvml(nvml)


def _title() -> dict[str, Any]:
    """The name of the device that CUDA uses first, or why there is none."""
    try:
        device = open_device(0, None, os.environ)
    except UnavailableError as error:
        return {"title_unavailable": str(error)}
    try:
        return {"title": device.title()}
    except device.failures as error:
        return {"title_unavailable": f"NVML does not name device 0: {error}"}
    finally:
        device.close()


def _mig(nvml: Any) -> dict[str, Any]:
    """Of the GPU that CUDA uses first; nothing where it has no MIG mode."""
    handle = _ask(nvml, lambda: physical_handle(nvml, os.environ))
    mode = None if handle is None else _ask(nvml, lambda: nvml.nvmlDeviceGetMigMode(handle)[0])
    if mode is None:
        return {}
    if mode != nvml.NVML_DEVICE_MIG_ENABLE:
        return {"is_mig": False}
    most = _ask(nvml, lambda: int(nvml.nvmlDeviceGetMaxMigDeviceCount(handle))) or 0
    found = (_ask(nvml, functools.partial(_instance, nvml, handle, index)) for index in range(most))
    return {"is_mig": True, "instances": tuple(filter(None, found))}


def _instance(nvml: Any, handle: Any, index: int) -> Instance:
    part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
    size = int(nvml.nvmlDeviceGetMemoryInfo(part).total)
    return Instance(str(nvml.nvmlDeviceGetName(part)), str(nvml.nvmlDeviceGetUUID(part)), size)


def _release(number: int) -> tuple[int, int]:
    """NVML writes CUDA 13.1 as 13010."""
    return number // 1000, number % 1000 // 10


def _ask(nvml: Any, call: Callable[[], Answer]) -> Answer | None:
    with contextlib.suppress(UnavailableError, *failures(nvml)):
        return call()
    return None
