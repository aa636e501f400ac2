"""The GPU at hand, by the title that NVML gives it."""

import pytest

from muse_bench.errors import UsageError
from muse_bench.execution import at_hand
from muse_bench.execution.at_hand import choose_gpu
from muse_bench.measure.nvml_device import UnavailableError


@pytest.fixture
def device(monkeypatch):
    def put(title):
        def answer():
            if title is None:
                raise UnavailableError("NVML could not start")
            return title

        monkeypatch.setattr(at_hand, "device_title", answer)

    return put


def test_auto_is_the_gpu_at_hand(device):
    device("NVIDIA GeForce RTX 3080 Laptop GPU")
    assert choose_gpu("auto").name == "rtx-3080-laptop"


def test_a_name_is_taken_whatever_is_at_hand(device):
    device("NVIDIA H200")
    assert choose_gpu("rtx-4060").name == "rtx-4060"


def test_a_gpu_that_the_table_lacks_is_named(device):
    device("NVIDIA H200 MIG 1g.18gb")
    with pytest.raises(UsageError, match=r"'NVIDIA H200 MIG 1g\.18gb' is not a known GPU"):
        choose_gpu("auto")


def test_no_gpu_at_hand_is_said_with_its_reason(device):
    device(None)
    with pytest.raises(UsageError, match=r"needs a GPU in this machine \(NVML could not start\): name one"):
        choose_gpu("auto")
