"""The GPU of this machine, as a row of the table of GPUs: found by its title, without a CUDA context."""

from muse_bench.errors import UsageError
from muse_bench.measure.nvml import device_title
from muse_bench.measure.nvml_device import UnavailableError
from muse_bench.predict.gpus import Gpu, find_gpu

AT_HAND = "auto"


def choose_gpu(name: str) -> Gpu:
    """The GPU of this name; 'auto' is the one at hand.

    Raises: UsageError when the table has no such GPU, or none is at hand.
    """
    if name != AT_HAND:
        return find_gpu(name)
    try:
        return gpu_at_hand()
    except UnavailableError as error:
        raise UsageError(f"--gpu auto needs a GPU in this machine ({error}): name one, such as rtx-4060") from error


def gpu_at_hand() -> Gpu:
    """The row of this machine's first GPU.

    Raises: UnavailableError without a GPU, UsageError when the table has no such GPU.
    """
    return find_gpu(device_title())
