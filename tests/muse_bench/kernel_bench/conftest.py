"""Hand-made rows and a whole run."""

from collections.abc import Callable
from typing import Any

import pytest

from muse_bench.kernel_bench.record import KernelRow, Rates

RATES = Rates(
    copy_bytes_per_second=4e12,
    fp32_operations_per_second=5e13,
    fp16_operations_per_second=7e14,
    bf16_operations_per_second=8e14,
    l2_cache_bytes=50 << 20,
)


@pytest.fixture
def rates() -> Rates:
    """Those of a large card."""
    return RATES


@pytest.fixture
def make_row() -> Callable[..., KernelRow]:
    """A row of one case; ours unless told."""

    def make(contender: str = "muse_kernels", **changes: Any) -> KernelRow:
        values: dict[str, Any] = {
            "kernel": "rms_norm",
            "case": "16,384 x 1,024 bf16",
            "sizes": {"tokens": 16_384, "d_model": 1_024},
            "dtype": "bf16",
            "contender": contender,
            "forward_seconds": 2e-5,
            "forward_wall_seconds": 2e-5,
            "forward_backward_seconds": 6e-5,
            "forward_backward_wall_seconds": 6e-5,
            "peak_bytes": 70 << 20,
            "written_bytes": 64 << 20,
            "forward_limit_seconds": 1.7e-5,
            "forward_backward_limit_seconds": 4.2e-5,
            "duration_seconds": 1.0,
        }
        return KernelRow(**{**values, **changes})

    return make
