from typing import Any

import pytest

from muse_bench.measure.nvml_device import (
    BY_INDEX,
    FIRST_CALL_ONLY,
    NO_DEVICE_FIGURE,
    UnavailableError,
    open_device,
)


def asked(fake: Any, index: int = 0, uuid: str | None = None, **environment: str) -> set[str]:
    """The handles that a reading goes to."""
    open_device(index, uuid, environment).used_bytes()
    found: set[str] = fake.asked
    return found


def test_an_older_driver_is_asked_by_the_first_call_and_that_is_noted_once(install: Any) -> None:
    install((100, {}), (300, {}), memory_v2="NVMLError_FunctionNotFound: Function Not Found")
    device = open_device(0, None, {})
    assert [device.used_bytes(), device.used_bytes()] == [100, 300]
    assert device.notes == [FIRST_CALL_ONLY]


def test_an_older_pynvml_without_the_second_call_is_no_failure(install: Any) -> None:
    fake = install((100, {}))
    fake.nvmlDeviceGetMemoryInfo = lambda handle: type("Memory", (), {"used": 70})
    assert open_device(0, None, {}).used_bytes() == 70


def test_an_unsupported_call_leaves_its_reason_once(install: Any) -> None:
    install(memory_v2="NVMLError_NotSupported: Not Supported")
    device = open_device(0, None, {})
    assert [device.used_bytes(), device.used_bytes()] == [None, None]
    assert device.reasons == [NO_DEVICE_FIGURE]


def test_a_missing_device_is_a_reason_and_nvml_is_ended(install: Any) -> None:
    fake = install()
    with pytest.raises(UnavailableError, match=r"^NVML could not open device 7: Not Found$"):
        open_device(7, None, {})
    assert (fake.starts, fake.ends) == (1, 1)


@pytest.mark.parametrize(
    ("visible", "index", "handle"),
    [
        ("1,0", 0, "GPU-bbbb-1"),
        ("1, 0", 1, "GPU-aaaa-0"),
        ("GPU-bbbb-1", 0, "GPU-bbbb-1"),
        ("GPU-bb", 0, "GPU-bbbb-1"),
        ("MIG-cccc-0", 0, "instance"),
    ],
)
def test_the_device_is_the_one_that_cuda_sees(install: Any, visible: str, index: int, handle: str) -> None:
    fake = install()
    fake.uuids = ["GPU-aaaa-0", "GPU-bbbb-1"]
    assert asked(fake, index, CUDA_VISIBLE_DEVICES=visible) == {handle}


@pytest.mark.parametrize(("visible", "index"), [("", 0), ("-1", 0), ("0,-1,1", 1), ("NoDevFiles", 0)])
def test_a_hidden_device_is_a_reason(install: Any, visible: str, index: int) -> None:
    fake = install()
    with pytest.raises(UnavailableError, match=f"CUDA_VISIBLE_DEVICES={visible!r} hides it"):
        open_device(index, None, {"CUDA_VISIBLE_DEVICES": visible})
    assert fake.ends == 1


@pytest.mark.parametrize("uuid", ["bbbb-1", "GPU-bbbb-1"])
def test_a_uuid_is_taken_as_pytorch_and_as_nvml_write_it(install: Any, uuid: str) -> None:
    fake = install()
    fake.uuids = ["GPU-aaaa-0", "GPU-bbbb-1"]
    assert asked(fake, uuid=uuid, CUDA_VISIBLE_DEVICES="0") == {"GPU-bbbb-1"}


@pytest.mark.parametrize("uuid", ["GPU-aaaa", "GPU-zzzz"])
def test_an_ambiguous_or_unknown_uuid_is_a_reason(install: Any, uuid: str) -> None:
    install().uuids = ["GPU-aaaa-0", "GPU-aaaa-1"]
    with pytest.raises(UnavailableError, match=f"device {uuid}: no such device"):
        open_device(0, uuid, {})


def test_in_mig_mode_the_first_instance_is_asked_not_the_whole_gpu(install: Any) -> None:
    fake = install()
    fake.mig_mode = 1
    assert asked(fake) == {"instance 0 of GPU-aaaa-0"}


@pytest.mark.parametrize(
    ("gpus", "order", "notes"), [(2, "FASTEST_FIRST", [BY_INDEX]), (2, "PCI_BUS_ID", []), (1, "FASTEST_FIRST", [])]
)
def test_an_index_among_several_gpus_is_noted_as_uncertain(
    install: Any, gpus: int, order: str, notes: list[str]
) -> None:
    install().uuids = ["GPU-aaaa-0", "GPU-bbbb-1"][:gpus]
    assert open_device(0, None, {"CUDA_DEVICE_ORDER": order}).notes == notes
