"""NVML that breaks: in the call that NVML_BREAKS names, at its Nth use, with an error, or by never answering."""
# ruff: noqa: N816, N818, N801  (the names of the module that it stands for)

import collections
import os
import time
from types import SimpleNamespace
from typing import Any

CALL, _, NUMBER = os.environ["NVML_BREAKS"].partition(":")
KIND = os.environ.get("NVML_BREAKS_BY", "NVMLError")
USED_BYTES = 900 << 20
SAMPLES_BEFORE = 3  # of a look at who else is on the GPU, and one before the case: workers hold nothing yet
NVML_DEVICE_MIG_ENABLE = 1
nvmlMemory_v2 = 0x02000028
uses: collections.Counter[str] = collections.Counter()


class NVMLError(Exception):
    """Any error of NVML's."""


class NVMLError_NotSupported(NVMLError):
    """A call that the device does not know."""


class NVMLError_NoPermission(NVMLError):
    """A call that is not for everybody."""


class NVMLError_FunctionNotFound(NVMLError):
    """A call that the driver does not know."""


ANSWERS: dict[str, Any] = {
    "nvmlDeviceGetCount": 1,
    "nvmlDeviceGetHandleByIndex": "handle",
    "nvmlDeviceGetName": "NVIDIA H200",
    "nvmlDeviceGetMigMode": [0, 0],
    "nvmlDeviceGetUUID": "GPU-0",
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=USED_BYTES),
    "nvmlSystemGetDriverVersion": "580.65.06",
    "nvmlSystemGetProcessName": "python",
}


def __getattr__(name: str) -> Any:
    if not name.startswith("nvml"):
        raise AttributeError(name)

    def call(*_: Any, **__: Any) -> Any:
        uses[name] += 1
        if name == CALL and uses[name] >= int(NUMBER or 1):
            if KIND == "silence":
                time.sleep(600)
            raise {"NVMLError": NVMLError, "OSError": OSError, "RuntimeError": RuntimeError}[KIND]("GPU is lost")
        if name == "nvmlDeviceGetComputeRunningProcesses":
            idle = uses["nvmlDeviceGetMemoryInfo"] <= SAMPLES_BEFORE
            return [] if idle else [SimpleNamespace(pid=pid, usedGpuMemory=USED_BYTES) for pid in children()]
        return ANSWERS.get(name)

    return call


def children() -> list[int]:
    """The workers, as NVML would list them."""
    with open(f"/proc/self/task/{os.getpid()}/children") as stream:
        return [int(pid) for pid in stream.read().split()]
