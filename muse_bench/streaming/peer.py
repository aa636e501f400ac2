"""Whether accelerate can keep a model's weights, asked before anything runs. Imports nothing heavy."""

import importlib.util

from muse_bench.errors import UsageError


def check_accelerate(*, copies: bool) -> None:
    """`copies` says that there is a device to copy to, and not only a prediction.

    Raises: UsageError for a prediction, and without the package.
    """
    if not copies:
        raise UsageError(
            "weights 'accelerate' are measured only: choose weights 'host' or 'device' for a prediction, "
            "or run on a CUDA GPU"
        )
    if importlib.util.find_spec("accelerate") is None:
        raise UsageError("weights 'accelerate' needs the package accelerate: pip install 'muse-bench[peers]'")
