"""The commit of the source that this runs from."""

import contextlib
import os
import subprocess
from pathlib import Path

COMMIT_VARIABLE = "MUSE_BENCH_COMMIT"


def source_commit() -> str | None:
    """The commit of the source tree this runs from, when it is one; MUSE_BENCH_COMMIT names it for a copy."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return os.environ.get(COMMIT_VARIABLE) or None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=5)
        return found.stdout.strip() or None
    return None
