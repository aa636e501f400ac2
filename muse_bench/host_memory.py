"""How much host memory there is and can still be had: what the kernel says, within the limits of control groups.

A virtual machine may be given more as it uses more: its kernel knows only of what it has. Imports nothing heavy.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from muse_bench.units import KIB

PROC = Path("/proc")
GROUPS = Path("/sys/fs/cgroup")
# Of the second and of the first version: the limit, what is used, and what of that is a cache which gives way.
FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available_bytes(proc: Path = PROC, groups: Path = GROUPS) -> int | None:
    """What new memory may take without swapping or being killed, in bytes; None where no file says so."""
    found = [*_machine("MemAvailable:", proc), *(left for group in _groups(proc, groups) for left in _left(group))]
    return max(0, min(found)) if found else None


def total_bytes(proc: Path = PROC) -> int | None:
    """All memory that the kernel has; None where no file says so."""
    return next(_machine("MemTotal:", proc), None)


def limit_bytes(proc: Path = PROC, groups: Path = GROUPS) -> int | None:
    """The tightest limit of the groups that this process belongs to; None without one."""
    limits = (_number(group / limit) for group in _groups(proc, groups) for limit, _, _ in FILES)
    return min((limit for limit in limits if limit is not None), default=None)


def _machine(name: str, proc: Path) -> Iterator[int]:
    for line in _lines(proc / "meminfo"):
        if line.startswith(name):
            yield int(line.split()[1]) * KIB


def _groups(proc: Path, groups: Path) -> Iterator[Path]:
    """Each group that this process belongs to, up to the root; a container sees some of them only."""
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = groups / "memory" if controllers else groups
        inside = PurePosixPath(path).relative_to("/")
        for group in (inside, *inside.parents):
            yield root / group


def _left(group: Path) -> Iterator[int]:
    for limit, used, cache in FILES:
        most = _number(group / limit)
        taken = _number(group / used)
        if most is not None and taken is not None:
            yield most - taken + _stat(group, cache)


def _number(path: Path) -> int | None:
    """What the file says; None for no such file, or no limit."""
    text = next(iter(_lines(path)), "max")
    return None if text == "max" else int(text)


def _stat(group: Path, name: str) -> int:
    words = (line.split() for line in _lines(group / "memory.stat"))
    return next((int(value) for key, value in words if key == name), 0)


def _lines(path: Path) -> list[str]:
    """Those of a file; none where there is no such file, as on other systems."""
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8").splitlines()
    return []
