# ruff: noqa: N802, N815  (the fake carries the names of the module that it stands for)
import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

LARGEST_LINUX_PID = 1 << 22
PATIENCE_SECONDS = 30.0


class FakeError(Exception):
    """pynvml's NVMLError."""


class FakeNvml(ModuleType):
    """A pynvml with GPUs that plays `readings`, (used, {pid: used}) each, one a sample, and stays at the last.

    A text in place of a reading, or under a call's name in `errors`, is raised: 'NVMLError: GPU is lost'.
    """

    NVMLError = FakeError
    NVMLError_NotSupported = type("NVMLError_NotSupported", (FakeError,), {})
    NVMLError_NoPermission = type("NVMLError_NoPermission", (FakeError,), {})
    NVMLError_FunctionNotFound = type("NVMLError_FunctionNotFound", (FakeError,), {})
    NVML_DEVICE_MIG_ENABLE = 1
    nvmlMemory_v2 = 0x02000028

    def __init__(self, readings: tuple[Any, ...], errors: dict[str, str]) -> None:
        super().__init__("pynvml")
        self.readings = readings
        self.errors = errors
        self.position = -1
        self.played = threading.Event()
        self.uuids = ["GPU-aaaa-0"]
        self.title: str | bytes = "NVIDIA H200"
        self.instances = {"MIG-cccc-0": "instance"}
        self.mig_mode = 0
        self.most_instances = 7
        self.starts = self.ends = 0
        self.asked: set[str] = set()

    def wait(self) -> None:
        """Until the last reading has been taken."""
        assert self.played.wait(PATIENCE_SECONDS)

    def _error(self, text: str) -> Exception:
        kind, message = text.split(": ")
        error: Exception = getattr(self, kind)(message)
        return error

    def _raise_if_told(self, call: str) -> None:
        if call in self.errors:
            raise self._error(self.errors[call])

    def nvmlInit(self) -> None:
        self._raise_if_told("init")
        self.starts += 1

    def nvmlShutdown(self) -> None:
        self.ends += 1
        self._raise_if_told("shutdown")

    def nvmlDeviceGetCount(self) -> int:
        return len(self.uuids)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        if index >= len(self.uuids):
            raise FakeError("Not Found")
        return self.uuids[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid not in [*self.uuids, *self.instances]:
            raise FakeError("Not Found")
        return self.instances.get(uuid, uuid)

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return handle

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        if handle == "instance":
            raise FakeError("Invalid Argument")
        return [self.mig_mode, self.mig_mode]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: str) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: str, index: int) -> str:
        if index >= self.most_instances:
            raise FakeError("Not Found")
        return f"instance {index} of {handle}"

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: str) -> str:
        return self.uuids[0]

    def nvmlDeviceGetMemoryInfo(self, handle: str, version: int | None = None) -> SimpleNamespace:
        self._raise_if_told("memory_v2" if version else "memory_v1")
        self.asked.add(handle)
        self.position = min(self.position + 1, len(self.readings) - 1)
        reading = self.readings[self.position]
        if isinstance(reading, str):
            self.played.set()
            raise self._error(reading)
        return SimpleNamespace(used=reading[0], total=1 << 30)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[SimpleNamespace]:
        if self.position in (-1, len(self.readings) - 1):
            self.played.set()
        self._raise_if_told("processes")
        used = self.readings[self.position][1]
        return [SimpleNamespace(pid=pid, usedGpuMemory=memory) for pid, memory in used.items()]

    def nvmlSystemGetProcessName(self, pid: int) -> str:
        self._raise_if_told("name")
        return f"/usr/bin/program-{pid - LARGEST_LINUX_PID}"

    def nvmlDeviceGetName(self, handle: str) -> str | bytes:
        self._raise_if_told("title")
        return self.title

    def nvmlSystemGetDriverVersion(self) -> str:
        self._raise_if_told("version")
        return "580.65.06"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        self._raise_if_told("cuda")
        return 13010


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a fake pynvml in place; without it there is none."""
    for variable in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", None)

    def put(*readings: Any, **errors: str) -> FakeNvml:
        fake = FakeNvml(readings or ((100, {}),), errors)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return put
