"""Which GPUs are chosen, of a machine whose GPUs are invented."""

import pytest

from muse_bench.errors import UsageError
from muse_bench.execution.devices import chosen_devices

UUIDS = ["GPU-aaaa-0", "GPU-bbbb-1", "GPU-cccc-2"]


@pytest.fixture
def machine(install):
    fake = install()
    fake.uuids = UUIDS
    return fake


def test_all_and_some(machine):
    assert [device.uuid for device in chosen_devices("all").values()] == UUIDS
    assert {number: device.uuid for number, device in chosen_devices("2, 0,2").items()} == {2: UUIDS[2], 0: UUIDS[0]}


def test_numbers_are_those_that_cuda_sees(machine, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,1")
    assert [device.uuid for device in chosen_devices("all").values()] == [UUIDS[2], UUIDS[1]]
    with pytest.raises(UsageError, match="there is no GPU 2"):
        chosen_devices("2")


def test_gpus_of_different_models_are_refused(machine, monkeypatch):
    titles = dict(zip(UUIDS, ("NVIDIA H200", "NVIDIA H200", "NVIDIA A100"), strict=True))
    monkeypatch.setattr(machine, "nvmlDeviceGetName", titles.__getitem__)
    with pytest.raises(UsageError, match=r"different models \(NVIDIA H200, NVIDIA A100\)"):
        chosen_devices("all")
    assert len(chosen_devices("0,1")) == 2


@pytest.mark.parametrize("text", ["", "0,", "one", "-1", "0-1", "²"])
def test_what_names_no_gpu(machine, text):
    with pytest.raises(UsageError, match="--devices"):
        chosen_devices(text)


def test_no_gpu_at_all(install):
    with pytest.raises(UsageError, match="there is no GPU to measure on"):
        chosen_devices("all")
