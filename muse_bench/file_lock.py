"""Locks of files that the kernel gives up with the process, however that ends."""

import os

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]


def try_lock(handle: int) -> bool:
    """Locks an open file for this process; False when another holds it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_lock(handle: int) -> None:
    """Locks an open file for this process as soon as no other holds it."""
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_EX)


def sync_folder(folder: os.PathLike[str]) -> None:
    """Puts the names in a folder on disk, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
