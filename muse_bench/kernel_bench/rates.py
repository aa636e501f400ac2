"""What the card itself can do: bytes a second that a copy moves, operations a second of a large matrix product."""

import statistics
from collections.abc import Callable
from typing import Any

import torch

from muse_bench.kernel_bench.tensors import DTYPES

COPY_BYTES = 1 << 30
MATRIX = 8_192
RUNS = 20
WARM_UP_RUNS = 5


def measure_rates() -> dict[str, Any]:
    """The fields of `record.Rates`, each from the median of 20 runs after a warm-up."""
    device = torch.device("cuda", torch.cuda.current_device())
    operations = {f"{name}_operations_per_second": _matrix_rate(device, dtype) for name, dtype in DTYPES.items()}
    properties = torch.cuda.get_device_properties(device)
    return {"copy_bytes_per_second": _copy_rate(device), "l2_cache_bytes": properties.L2_cache_size, **operations}


def _copy_rate(device: torch.device) -> float:
    """Bytes read and written."""
    size = min(COPY_BYTES, torch.cuda.mem_get_info(device)[0] // 8)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return float(2 * size / _seconds(lambda: target.copy_(source)))


def _matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """A square product of random matrices: zeros would take less power, and so a higher clock."""
    left, right = (torch.randn(MATRIX, MATRIX, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(left)
    return float(2 * MATRIX**3 / _seconds(lambda: torch.mm(left, right, out=out)))


def _seconds(run: Callable[[], object]) -> float:
    times: list[float] = []
    for index in range(WARM_UP_RUNS + RUNS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        if index >= WARM_UP_RUNS:
            times.append(start.elapsed_time(end) / 1_000)
    return statistics.median(times)
