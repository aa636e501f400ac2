"""On a real GPU: the doctor's self-check of every kernel, in every dtype that it is meant for."""

import pytest
import torch

from muse_bench.doctor.machine import Examiner
from muse_kernels.self_check import ROWS, check

pytestmark = pytest.mark.gpu
CHECKS = [pytest.param(name, dtype, id=f"{name}-{dtype}") for name, row in ROWS.items() for dtype in row.dtypes]


@pytest.mark.parametrize(("name", "dtype"), CHECKS)
def test_every_kernel_passes(name: str, dtype: torch.dtype) -> None:
    outcome = check(name, "cuda", dtype)
    assert outcome.passed, [figure for figure in outcome.figures if not figure.passed]


def test_the_doctor_uses_the_gpu_and_checks_a_kernel() -> None:
    with Examiner(timeout_seconds=120) as examiner:
        machine = examiner.examine()
        assert machine.measures
        assert machine.checks_kernels
        assert machine.gpu is not None
        assert machine.gpu["gpu"] == torch.cuda.get_device_name(0)
        assert len(examiner.checks()) == len(CHECKS)
        assert examiner.check("rms_norm", "bf16").status == "ok"
