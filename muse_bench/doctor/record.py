"""What the doctor found: facts, what can be measured, an outcome for each kernel and dtype. Plain data; no torch."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Literal

import muse_bench

SCHEMA_VERSION = 1  # of the doctor's own JSON: names stay, and new ones may come
Source = Literal["measured", "sampled", "predicted", "unavailable"]
State = Literal["ok", "missing", "warning", "failed"]
CheckStatus = Literal["ok", "wrong", "oom", "crashed"]


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that a measurement needs or that changes its result: how it is here, and what to do about it.

    `missing` and `warning` leave the machine sound, with less to measure; `failed` says that something is broken.
    """

    what: str
    state: State
    found: str
    advice: str | None = None


@dataclass(frozen=True, slots=True)
class Ability:
    """A kind of figure: where it comes from on this machine, how or why not, and what to do for more."""

    what: str
    source: Source
    found: str
    advice: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelOutcome:
    """One operation in one dtype. `worst_share` is the largest error as a share of the one that is allowed."""

    operation: str
    dtype: str
    status: CheckStatus
    worst: str | None = None
    worst_share: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkup:
    """All of it. `summary` says in a line what this machine can do."""

    summary: str
    facts: tuple[Fact, ...]
    abilities: tuple[Ability, ...] = ()
    kernels: tuple[KernelOutcome, ...] = ()
    muse_bench: str = muse_bench.__version__
    schema_version: int = field(default=SCHEMA_VERSION)

    @property
    def sound(self) -> bool:
        """Whether everything that this machine has works, the main job with it: the exit code is 0."""
        return all(fact.state != "failed" for fact in self.facts) and all(one.status == "ok" for one in self.kernels)

    def to_json(self) -> str:
        """The file's text."""
        values = dataclasses.asdict(self)
        head = {"schema_version": values.pop("schema_version"), "sound": self.sound}
        return json.dumps({**head, **values}, indent=1, allow_nan=False) + "\n"
