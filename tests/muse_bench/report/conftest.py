"""A hand-made run of several cases, and snapshots: files of expected text beside the tests."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from muse_bench.analysis.comparison import add_reductions
from muse_bench.analysis.verdict import judge
from muse_bench.ledger import Ledger, ModuleRow, TimelinePoint
from muse_bench.record import Environment, RunFile

MIB = 1 << 20
ENVIRONMENT = Environment(muse_bench="0.1.0", torch="2.13.0", cuda="13.0", gpu="NVIDIA H200")
SNAPSHOTS = Path(__file__).parent / "snapshots"


@pytest.fixture
def snapshot() -> Callable[[str, str], None]:
    """Compares text with a file; UPDATE_SNAPSHOTS=1 writes it instead."""

    def check(name: str, text: str) -> None:
        path = SNAPSHOTS / name
        if os.environ.get("UPDATE_SNAPSHOTS"):
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8")

    return check


@pytest.fixture
def draw() -> Callable[..., str]:
    """What a terminal of a width shows of a renderable, without colours."""

    def text(renderable: Any, width: int, *, encoding: str = "utf-8") -> str:
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        Console(file=stream, width=width, color_system=None, markup=False, highlight=False).print(renderable)
        stream.flush()
        return "".join(line.rstrip() + "\n" for line in stream.buffer.getvalue().decode(encoding).splitlines())

    return text


@pytest.fixture
def run(make_record) -> RunFile:
    """Four measured cases: a baseline, a better one, one that ran out of memory, one that crashed."""
    measured = {
        "provenance": "measured",
        "gpu": "NVIDIA H200",
        "device_peak_provenance": "sampled",
        "step_time_seconds": 0.1234,
        "tokens_per_second": 16_600.4,
        "timeline": _timeline(),
    }
    empty = dict.fromkeys(
        ("peak_allocated_bytes", "cold_peak_allocated_bytes", "peak_reserved_bytes", "device_peak_bytes", "ledger")
    )
    empty |= dict.fromkeys(("parameters", "context_bytes", "step_time_seconds", "tokens_per_second"))
    ledger = Ledger(parameters=10 * MIB, gradients=10 * MIB, optimizer_state=20 * MIB, activations_saved=5 * MIB)
    small = {"ledger": ledger, "peak_allocated_bytes": 45 * MIB, "cold_peak_allocated_bytes": 30 * MIB}
    records = [
        make_record(**measured, modules=_modules()),
        make_record("ultra", **{**measured, **small, "dtype": "fp16", "notes": ("no ledger of the optimizer",)}),
        make_record("streamed", **{**measured, **empty, "status": "oom", "reason": "Tried to allocate 90.00 GiB"}),
        make_record("mine.py:build", **{**measured, **empty, "status": "crashed", "reason": "timed out after 9 s"}),
    ]
    judged = tuple(judge(record) for record in add_reductions(records, "baseline"))
    return RunFile(environment=ENVIRONMENT, records=judged, command="muse-bench compare --models baseline,ultra")


def _modules() -> tuple[ModuleRow, ...]:
    blocks = [
        ModuleRow(module=f"blocks.{index}", ledger=Ledger(parameters=MIB, gradients=MIB, activations_saved=3 * MIB))
        for index in range(12)
    ]
    head = ModuleRow(module="head", ledger=Ledger(parameters=8 * MIB, activations_temporary=64 * MIB))
    return (*blocks, head)


def _timeline() -> tuple[TimelinePoint, ...]:
    """A step that climbs through the forward pass, peaks in its backward, and ends at the optimizer."""
    held = {"parameters": 100 * MIB, "optimizer_state": 200 * MIB}
    saved = [*range(0, 320, 20), *range(320, 0, -20)]
    points = [
        TimelinePoint(
            phase="forward" if index < 16 else "backward",
            ledger=Ledger(**held, activations_saved=size * MIB, gradients=max(0, index - 16) * 6 * MIB),
        )
        for index, size in enumerate(saved)
    ]
    return (*points, *[TimelinePoint(phase="optimizer", ledger=Ledger(**held, gradients=100 * MIB))] * 8)
