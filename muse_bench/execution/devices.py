"""Which GPUs of this machine to measure on: as CUDA numbers them, and all of one model."""

import contextlib
import itertools
from collections.abc import Iterator

from muse_bench.errors import UsageError
from muse_bench.measure.nvml import DeviceName, device_name
from muse_bench.measure.nvml_device import UnavailableError

EVERY = "all"


def chosen_devices(text: str) -> dict[int, DeviceName]:
    """The GPUs in 'all' or '0,1', by number.

    Raises: UsageError for what is neither, a GPU that is not there, and GPUs of different models.
    """
    found = dict(_every()) if text == EVERY else {number: _device(number, text) for number in _numbers(text)}
    if not found:
        raise UsageError(f"--devices {text}: {_why_none()}")
    titles = dict.fromkeys(device.title for device in found.values())
    if len(titles) > 1:
        raise UsageError(f"--devices {text} are of different models ({', '.join(titles)}): name GPUs of one model")
    return found


def _numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(f"--devices '{text}': write all, or the numbers of GPUs with commas between, such as 0,1")
    return list(dict.fromkeys(map(int, parts)))


def _device(number: int, text: str) -> DeviceName:
    try:
        return device_name(number)
    except UnavailableError as error:
        raise UsageError(f"--devices {text}: there is no GPU {number}: {error}") from error


def _every() -> Iterator[tuple[int, DeviceName]]:
    with contextlib.suppress(UnavailableError):  # past the last one
        for number in itertools.count():
            yield number, device_name(number)


def _why_none() -> str:
    try:
        device_name()
    except UnavailableError as error:
        return f"there is no GPU to measure on ({error})"
    return "there is no GPU to measure on"
