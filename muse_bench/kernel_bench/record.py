"""The record of a run of the kernel benchmarks: what each implementation of each case took. Plain data; no torch.

Times are in seconds, medians of one call; sizes are integers of bytes; what could not be had is None.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from muse_bench.errors import UsageError
from muse_bench.kernel_bench.benchmark import BenchDtype
from muse_bench.record import SCHEMA_VERSION, Environment, read_head
from muse_bench.schema import check_values, is_size, known_fields, listed, read_json

KernelStatus = Literal["ok", "missing", "skipped", "oom", "crashed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What the card itself did in the same run: a large copy, and products of 8,192 x 8,192 matrices."""

    copy_bytes_per_second: float
    fp32_operations_per_second: float
    fp16_operations_per_second: float
    bf16_operations_per_second: float
    l2_cache_bytes: int | None = None

    def seconds(self, moved_bytes: int, operations: int, dtype: BenchDtype) -> float:
        """The least time for this work: what the bytes take or what the operations take, whichever is more."""
        rate: float = getattr(self, f"{dtype}_operations_per_second")
        return max(moved_bytes / self.copy_bytes_per_second, operations / rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoalOutcome:
    """Ours over what the goal names, and the most that this may be; None where one of the two has no figure."""

    goal: str
    at_most: float
    ratio: float | None
    met: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRow:
    """One implementation of one case.

    `forward_seconds` and `forward_backward_seconds` are the device's; the wall clock's say how long a caller waits for
    a call of many. `peak_bytes` is what both passes take beyond their inputs, `written_bytes` the outputs and gradients
    among it. The work and the limits are those of the case, the same for every implementation.
    """

    kernel: str
    case: str
    sizes: dict[str, int]
    dtype: BenchDtype
    contender: str
    status: KernelStatus = "ok"
    reason: str | None = None
    forward_seconds: float | None = None
    forward_wall_seconds: float | None = None
    forward_backward_seconds: float | None = None
    forward_backward_wall_seconds: float | None = None
    peak_bytes: int | None = None
    written_bytes: int | None = None
    forward_moved_bytes: int = 0
    forward_operations: int = 0
    backward_moved_bytes: int = 0
    backward_operations: int = 0
    forward_limit_seconds: float | None = None
    forward_backward_limit_seconds: float | None = None
    goals: tuple[GoalOutcome, ...] = ()
    duration_seconds: float | None = None

    @property
    def scratch_bytes(self) -> int | None:
        """What both passes take beyond inputs, outputs and gradients."""
        if self.peak_bytes is None or self.written_bytes is None:
            return None
        return max(0, self.peak_bytes - self.written_bytes)

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """A row from parsed JSON. Raises: UsageError that names the field that is missing or of the wrong type."""
        if not isinstance(values, dict):
            raise UsageError("a benchmark is not a JSON object")
        known = known_fields(cls, values)
        for name in ("kernel", "case", "sizes", "dtype", "contender", "status"):
            if name not in known:
                raise UsageError(f"a benchmark lacks the field '{name}'")
        goals = [_goal(goal) for goal in listed("goals", known.pop("goals", []))]
        check_values(cls, known)
        if not all(is_size(size) for size in known["sizes"].values()):
            raise UsageError("'sizes' holds what is not a whole number")
        return cls(**known, goals=tuple(goals))


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRun:
    """A run of the benchmarks: where, how fast that card is, and a row for each implementation of each case."""

    environment: Environment
    rates: Rates
    rows: tuple[KernelRow, ...]
    command: str | None = None
    schema_version: int = field(default=SCHEMA_VERSION)

    def to_json(self) -> str:
        """The file's text: JSON with a line for each field of each row."""
        head = {
            "schema_version": self.schema_version,
            "command": self.command,
            "environment": dataclasses.asdict(self.environment),
            "rates": dataclasses.asdict(self.rates),
        }
        rows = ",\n".join("{\n" + _fields(dataclasses.asdict(row), "  ") + "\n }" for row in self.rows)
        return "{\n" + _fields(head, " ") + ',\n "benchmarks": [' + rows + "]\n}\n"


def read_kernel_file(path: Path) -> KernelRun:
    """The run of a JSON file.

    Raises: UsageError when the file cannot be read, is none of the kernel benchmarks, or comes from a newer schema.
    """
    run = read_json(path, _kernel_run)
    if not run.rows:
        raise UsageError(f"{path}: holds no benchmarks")
    return run


def _kernel_run(values: Any) -> KernelRun:
    environment, command = read_head(values, "benchmarks")
    rates = known_fields(Rates, values["rates"])
    check_values(Rates, rates)
    rows = tuple(KernelRow.from_json(row) for row in listed("benchmarks", values["benchmarks"]))
    return KernelRun(environment=environment, rates=Rates(**rates), rows=rows, command=command)


def _goal(values: Any) -> GoalOutcome:
    goal = known_fields(GoalOutcome, values)
    check_values(GoalOutcome, goal)
    return GoalOutcome(**goal)


def _fields(values: dict[str, Any], indent: str) -> str:
    return ",\n".join(f"{indent}{json.dumps(name)}: {json.dumps(v, allow_nan=False)}" for name, v in values.items())
