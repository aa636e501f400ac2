"""The command line run as a process of its own, and in this one with a runner that invents its records."""

import dataclasses
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Never, Self

import pytest

from muse_bench import cli
from muse_bench.config import Case
from muse_bench.execution import gpu_lock
from muse_bench.execution.runner import Progress
from muse_bench.ledger import Ledger
from muse_bench.measure.nvml_device import UnavailableError
from muse_bench.record import Environment, Record

MIB = 1 << 20
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def muse_bench(tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `muse-bench ARGUMENTS` in an empty folder and returns what the process left."""

    def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        paths = os.pathsep.join((str(ROOT), str(ROOT / "kernels")))
        environment = {**os.environ, "PYTHONPATH": paths, "COLUMNS": "120"}
        command = [sys.executable, "-m", "muse_bench", *map(str, arguments)]
        options = {"cwd": tmp_path, "env": environment, "timeout": 120, **options}
        return subprocess.run(command, capture_output=True, text=True, **options)

    return run


class FakeRunner:
    """Stands in for the runner: `peaks` says what each model's case gives, in MiB, a status or an exception.

    A function gives it from the case. With backend "cuda" whatever is not asked for as a prediction is measured, and
    then `measured` says what it gives, where it has the model.
    """

    peaks: dict[str, Any] = {}  # noqa: RUF012
    measured: dict[str, Any] = {}  # noqa: RUF012
    fields: Callable[[Case], dict[str, Any]] | None = None  # further fields of each record, from its case
    made: list["FakeRunner"] = []  # noqa: RUF012
    backend = "predict"
    environment = Environment(muse_bench="0.1.0", torch="2.13.0", gpu="NVIDIA GeForce RTX 4060")

    def __init__(self, backend: str, **options: Any) -> None:
        self.asked, self.options, self.cases = backend, options, []
        FakeRunner.made.append(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def start(self) -> None:
        return None

    def stop(self) -> None:
        return None

    def run(self, cases: Sequence[Case]) -> Iterator[Record]:
        self.cases = list(cases)
        for index, case in enumerate(cases):
            self.options["on_progress"](Progress(index, len(cases), case, "building"))
            measures = self.backend == "cuda" and self.asked != "predict"
            peaks = {**self.peaks, **self.measured} if measures else self.peaks
            found = peaks.get(case.model, 100)
            found = found(case) if callable(found) else found
            if isinstance(found, BaseException):
                raise found
            record = _record(case, found, "measured" if measures else "predicted")
            yield dataclasses.replace(record, **({} if self.fields is None else type(self).fields(case)))


def _record(case: Case, found: int | str, provenance: Any) -> Record:
    record = Record(
        model=case.model,
        config={} if case.config is None else dataclasses.asdict(case.config),
        mode=case.mode,
        dtype=case.dtype,
        batch=case.batch,
        seq=case.seq,
        status="ok",
        provenance=provenance,
        gpu="NVIDIA GeForce RTX 4060",
        workspace_setting=case.workspace,
        logits=case.logits,
        micro_batch=case.micro_batch,
        budget_bytes=case.budget_bytes,
        limit_bytes=case.limit_bytes,
        case_id=case.identity,
    )
    if isinstance(found, str):
        return dataclasses.replace(record, status=found, reason="it was too much")
    ledger = Ledger(parameters=found * MIB)
    peaks = {"peak_allocated_bytes": found * MIB, "peak_reserved_bytes": found * MIB, "device_peak_bytes": found * MIB}
    return dataclasses.replace(record, ledger=ledger, parameters=found, **peaks)


@pytest.fixture
def runner(monkeypatch) -> type[FakeRunner]:
    """The stand-in, put where commands find their runner."""
    for module in ("run", "frontier"):  # by import: the package's attribute `frontier` is the command
        monkeypatch.setattr(importlib.import_module(f"muse_bench.cli.{module}"), "Runner", FakeRunner)
    monkeypatch.setattr(FakeRunner, "peaks", {})
    monkeypatch.setattr(FakeRunner, "measured", {})
    monkeypatch.setattr(FakeRunner, "fields", None)
    monkeypatch.setattr(FakeRunner, "backend", "predict")
    monkeypatch.setattr(FakeRunner, "made", [])
    return FakeRunner


def _no_gpu(*_: object) -> Never:
    """What is invented uses no GPU, and takes none from a test that does."""
    raise UnavailableError("no GPU")


@pytest.fixture
def call(runner, monkeypatch, tmp_path) -> Callable[..., int]:
    """Runs a command line in this process, with the stand-in, in an empty folder; returns its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu_lock, "device_name", _no_gpu)

    def main(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["muse-bench", *arguments])
        return int(cli.main())

    return main
