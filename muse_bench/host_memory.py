"""How much memory this machine, or the container that this runs in, has. Imports nothing heavy."""

import os
from pathlib import Path

# Of cgroups v2 and v1; without a limit there is no file, the word max, or more than the machine has.
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def machine_bytes() -> int | None:
    """The machine's memory or the container's limit, whichever is less; None where neither is told."""
    found = [size for size in (_physical_bytes(), *map(_limit_bytes, LIMITS)) if size is not None]
    return min(found, default=None)


def _physical_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on every system
        return None


def _limit_bytes(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
