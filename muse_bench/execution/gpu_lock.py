"""One measuring run a GPU: a lock named after it, which the kernel gives up with the process that holds it."""

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from muse_bench.errors import UsageError
from muse_bench.file_lock import try_lock, wait_for_lock
from muse_bench.measure.nvml import DeviceName, OtherProcess, device_name, other_processes
from muse_bench.measure.nvml_device import UnavailableError
from muse_bench.units import format_bytes

LONGEST_NOTE_BYTES = 1_000
OURS: set[str] = set()  # what this process has locked, and need not lock again


@contextlib.contextmanager
def taken_gpu(
    uuid: str | None, *, waits: bool, say: Callable[[str], None], index: int = 0
) -> Iterator[DeviceName | None]:
    """Holds this GPU, or CUDA's of this number, and says who else uses it; None where NVML cannot tell which it is.

    Raises: UsageError as `hold_gpu`.
    """
    try:
        here = device_name(index, uuid)
    except UnavailableError:
        yield None
        return
    with hold_gpu(here, waits=waits, say=say):
        if others := other_processes(device_uuid=here.uuid):
            say(f"warning: {crowd(others)}")
        yield here


def crowd(others: Sequence[OtherProcess]) -> str:
    """How many processes share the GPU with the run, and what they hold, as far as that is known."""
    known = [other.used_bytes for other in others if other.used_bytes is not None]
    size = format_bytes(sum(known)) if len(known) == len(others) else "an unknown amount of memory"
    one = len(others) == 1
    return (
        f"{len(others)} other process{'es' * (not one)} on the GPU hold{'s' * one} {size}: "
        "what is measured of the whole device, and times, are not this run's alone"
    )


@contextlib.contextmanager
def hold_gpu(device: DeviceName, *, waits: bool, say: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Holds the GPU while the block runs, against other runs of muse-bench that measure on it.

    Without `waits` a GPU that another run holds is refused; else it is said who holds it.
    Raises: UsageError that names the process that holds it.
    """
    if device.uuid in OURS:
        yield
        return
    handle = _open(lock_file(device.uuid))
    try:
        _lock(handle, device, waits, say)
        OURS.add(device.uuid)
        yield
    finally:
        OURS.discard(device.uuid)
        os.close(handle)


def lock_file(uuid: str) -> Path:
    """The file that is locked: of all users, since they share the GPU. It stays; its lock goes with the process."""
    return Path(tempfile.gettempdir()) / f"muse-bench-{uuid}.lock"


def _open(path: Path) -> int:
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
    try:
        try:
            return os.open(path, flags)  # without O_CREAT, which a shared folder denies for another user's file
        except FileNotFoundError:
            handle = os.open(path, flags | os.O_CREAT, 0o666)
            with contextlib.suppress(OSError):
                os.chmod(path, 0o666)  # whatever the umask
            return handle
    except OSError as error:
        raise UsageError(f"{path}: cannot be locked: {error.strerror or error}") from error


def _lock(handle: int, device: DeviceName, waits: bool, say: Callable[[str], None]) -> None:
    if not try_lock(handle):
        holder = f"{device.title} is measured on by {_holder(handle)}"
        if not waits:
            raise UsageError(f"{holder}: two runs would disturb each other; add --wait to run after it")
        say(f"{holder}: waiting for it to end")
        wait_for_lock(handle)
    note = {"pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(note).encode(), 0)


def _holder(handle: int) -> str:
    """Who holds the lock, as far as the file says it: anybody may have written it."""
    try:
        note = json.loads(os.pread(handle, LONGEST_NOTE_BYTES, 0))
        return f"process {int(note['pid'])} since {str(note['since'])[:19]}"
    except (ValueError, TypeError, KeyError):
        return "another process"
