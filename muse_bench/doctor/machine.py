"""The doctor's observations: what NVML, the system and a worker process say of this machine. Imports no torch."""

import contextlib
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from muse_bench.doctor.host import Host
from muse_bench.doctor.record import CheckStatus, KernelOutcome
from muse_bench.errors import MuseBenchError
from muse_bench.execution.process import WorkerDied, WorkerProcess
from muse_bench.measure.driver import Driver
from muse_bench.measure.nvml import DeviceView, NvmlSampler

WORKER = "muse_bench.doctor.worker"
START_TASK_SECONDS = 120.0  # the first use of a GPU loads its driver
VARIABLES: dict[str, str | None] = {"TRITON_INTERPRET": None}  # what is checked is what is compiled
COMPILERS = ("cc", "gcc", "clang")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What was seen. A reason is None where there is nothing to explain; a figure is None where there is none."""

    python: str
    variables: Mapping[str, str]
    transformers: str | None = None
    compiler: str | None = None
    host: Host = field(default_factory=Host)
    driver: Driver = field(default_factory=Driver)
    worker_failure: str | None = None
    software: Mapping[str, Any] = field(default_factory=dict)
    triton_failure: str | None = None
    cuda_unavailable: str | None = None
    gpu: Mapping[str, Any] | None = None
    gpu_failure: str | None = None
    view: DeviceView | None = None
    link: Mapping[str, Any] | None = None

    @property
    def measures(self) -> bool:
        """Whether a worker computed something on a GPU."""
        return self.gpu is not None

    @property
    def checks_kernels(self) -> bool:
        """Whether Triton's kernels can run."""
        return self.measures and self.software.get("triton") is not None and self.triton_failure is None


class Examiner:
    """A context manager around a worker process that uses the GPU and runs the checks."""

    def __init__(self, timeout_seconds: float | None = None) -> None:
        self._timeout_seconds = timeout_seconds
        self._worker: WorkerProcess | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def examine(self) -> Machine:
        """Looks at everything but the kernels. What cannot be seen is in the result with its reason."""
        seen: dict[str, Any] = {
            "python": platform.python_version(),
            "variables": dict(os.environ),
            "transformers": _version("transformers"),
            "compiler": os.environ.get("CC") or next(filter(None, map(shutil.which, COMPILERS)), None),
            "driver": Driver.seen(),
            "host": Host.seen(),
        }
        try:
            hello = self._ready().hello()
            seen |= {"software": hello["environment"], "cuda_unavailable": hello["cuda_unavailable"]}
        except WorkerDied as error:
            self._close()
            return Machine(**seen, worker_failure=str(error))
        if hello["environment"]["triton"] is not None:
            seen["triton_failure"] = self._why_not("triton")
        return Machine(**seen, **({} if seen["cuda_unavailable"] else self._use_gpu()))

    def checks(self) -> list[tuple[str, str]]:
        """Every operation with each dtype that it is checked in. Raises: MuseBenchError when the worker cannot say."""
        try:
            return [(name, dtype) for name, dtype in self._values({"task": "list"})["checks"]]
        except WorkerDied as error:
            raise MuseBenchError(f"the kernels could not be listed: {error}") from error

    def check(self, operation: str, dtype: str, device: str = "cuda") -> KernelOutcome:
        """Checks one operation; when that ends the worker, or leaves it no device, the next check gets another."""
        request = {"task": "check", "operation": operation, "dtype": dtype, "device": device}
        try:
            result = self._ready().ask(request, self._timeout_seconds, lambda _: None)
        except WorkerDied as error:
            self._close()
            return KernelOutcome(operation=operation, dtype=dtype, status="crashed", reason=str(error))
        if result["status"] == "ok":
            return KernelOutcome(operation=operation, dtype=dtype, **result["values"])
        self._close()
        status: CheckStatus = "oom" if result["status"] == "oom" else "crashed"
        return KernelOutcome(operation=operation, dtype=dtype, status=status, reason=result["reason"])

    def _use_gpu(self) -> dict[str, Any]:
        """What the worker computes with, and what NVML sees of it meanwhile."""
        worker = self._ready()
        with NvmlSampler(pid=worker.pid) as sampler:
            try:
                result = worker.ask({"task": "gpu"}, START_TASK_SECONDS, lambda _: None)
            except WorkerDied as error:
                self._close()
                return {"gpu_failure": str(error)}
            view = sampler.stop()
        if result["status"] != "ok":
            return {"gpu_failure": result["reason"], "view": view}
        return {"gpu": result["values"], "view": view, "link": self._link()}

    def _link(self) -> dict[str, Any]:
        """How fast the host link is, or why no memory could be pinned to see it."""
        try:
            return self._values({"task": "link"})
        except WorkerDied as error:
            self._close()
            return {"rates": None, "pinned_bytes": None, "refused": str(error)}

    def _why_not(self, package: str) -> str | None:
        """Why the worker cannot import a package; None when it can."""
        try:
            reason: str | None = self._values({"task": "import", "package": package})["reason"]
        except WorkerDied as error:
            self._close()
            return str(error)
        return reason

    def _values(self, request: Mapping[str, object]) -> dict[str, Any]:
        """The answer to a request that no GPU is needed for. Raises: WorkerDied when there is none."""
        result = self._ready().ask(request, START_TASK_SECONDS, lambda _: None)
        if result["status"] != "ok":
            raise WorkerDied(str(result["reason"]))
        return result["values"]

    def _ready(self) -> WorkerProcess:
        if self._worker is None:
            try:
                self._worker = WorkerProcess(VARIABLES, WORKER)
            except OSError as error:
                raise WorkerDied(f"no process can be started: {error}") from error
        return self._worker

    def _close(self) -> None:
        if self._worker is not None:
            self._worker.close()
        self._worker = None


def _version(package: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None
