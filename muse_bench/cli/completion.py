"""What the shell may complete: names of models and of GPUs, after a comma too."""

from collections.abc import Iterable

from muse_bench.models.presets import PRESETS
from muse_bench.predict.gpus import gpu_names


def models(incomplete: str) -> list[str]:
    """Presets that go on from what is typed, behind the last comma of a list."""
    return _continued(PRESETS, incomplete)


def gpus(incomplete: str) -> list[str]:
    """GPUs that can be predicted for."""
    return _continued(gpu_names(), incomplete)


def _continued(names: Iterable[str], incomplete: str) -> list[str]:
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in names if name.startswith(last)]
