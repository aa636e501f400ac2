"""Which run records come from, and whether another may go on with it."""

import dataclasses
import shlex
from dataclasses import dataclass
from typing import Any, Self

from muse_bench.record import SCHEMA_VERSION, Environment, read_head

PROOFS = ("--prove", "--bisect")  # they add to records, and to no case
# What the figures of a case may depend on; where one is not known, it is not compared.
COMPARED = (
    "gpu",
    "torch",
    "triton",
    "cuda",
    "driver",
    "allocator_config",
    "cublas_workspace_config",
    "muse_bench",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The run that records come from; what goes on with it has to be alike."""

    environment: Environment
    backend: str
    command: str | None

    def difference(self, other: Self) -> str | None:
        """What the other run is that this one is not; None when they are alike."""
        ours, theirs = _words(self.command), _words(other.command)
        if ours[1:2] != theirs[1:2]:
            return f"by '{' '.join(theirs[:2])}'"
        for option in PROOFS:
            if (option in ours) != (option in theirs):
                return f"{'with' if option in theirs else 'without'} {option}"
        if self.backend != other.backend:
            return f"with --backend {other.backend}, and this is {self.backend}"
        for name in COMPARED:
            here, there = getattr(self.environment, name), getattr(other.environment, name)
            if here != there and here is not None and there is not None:
                return f"with {name.replace('_', ' ')} '{there}', and here it is '{here}'"
        return None

    def joined(self, environment: Environment) -> Self:
        """The same run with what is known of its environment by now, and the commits of all its parts."""
        known = {name: value for name, value in dataclasses.asdict(environment).items() if value is not None}
        parts = (self.environment.commit, environment.commit)
        commits = dict.fromkeys(name for part in parts for name in (part or "").split(", ") if name)
        found = dataclasses.replace(self.environment, **{**known, "commit": ", ".join(commits) or None})
        return dataclasses.replace(self, environment=found)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as `from_json` reads them."""
        return {
            "schema_version": SCHEMA_VERSION,
            "command": self.command,
            "backend": self.backend,
            "environment": dataclasses.asdict(self.environment),
        }

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """The origin that `to_json` wrote. Raises: UsageError as `read_head`; KeyError without a backend."""
        environment, command = read_head({**values, "records": []}, "records")
        return cls(environment=environment, backend=str(values["backend"]), command=command)


def _words(command: str | None) -> list[str]:
    return shlex.split(command or "")
