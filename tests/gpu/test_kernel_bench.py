"""On a real GPU: one kernel through the command's own runner."""

import pytest

from muse_bench.kernel_bench import benchmarks
from muse_bench.kernel_bench.benchmark import OURS
from muse_bench.kernel_bench.runner import KernelRunner, Planned

pytestmark = pytest.mark.gpu


def test_a_norm_is_measured_beside_its_peers() -> None:
    planned = Planned("rms_norm", benchmarks()["rms_norm"], 0, tiny=True)
    with KernelRunner(timeout_seconds=120) as runner:
        *_, rows = runner.run([planned])
        assert runner.rates.copy_bytes_per_second > 1e10
        assert runner.rates.bf16_operations_per_second > runner.rates.fp32_operations_per_second
    found = {row.contender: row for row in rows}
    assert found[OURS].status == found["eager"].status == "ok"
    assert found["Liger"].status in ("ok", "missing")
    for row in (found[OURS], found["eager"]):
        assert row.forward_seconds is not None
        assert row.forward_backward_seconds is not None
        assert min(row.forward_backward_seconds, row.forward_seconds) > 0
        assert row.peak_bytes is not None
        assert row.written_bytes is not None
        assert row.peak_bytes >= row.written_bytes > 0
