"""The driver as NVML has it, over an NVML that is invented and fails at any call."""

from typing import Any

import pytest

from muse_bench.measure.driver import Driver
from muse_bench.measure.nvml_device import NOT_INSTALLED


@pytest.mark.usefixtures("install")
def test_without_the_package_there_is_a_reason() -> None:
    assert Driver.seen() == Driver(unavailable=NOT_INSTALLED)


def test_versions_and_the_title_of_a_whole_gpu(install: Any) -> None:
    fake = install()
    assert Driver.seen() == Driver(version="580.65.06", cuda=(13, 1), title="NVIDIA H200", is_mig=False)
    assert fake.starts == fake.ends


@pytest.mark.parametrize(
    ("call", "lost"), [("version", "version"), ("cuda", "cuda"), ("title", "title"), ("shutdown", None)]
)
def test_a_call_that_fails_costs_its_own_figure_alone(install: Any, call: str, lost: str | None) -> None:
    """NVML that fails at the start, in the middle or at the end."""
    install(**{call: "NVMLError: GPU is lost"})
    seen = Driver.seen()
    missing = {name for name in ("version", "cuda", "title") if getattr(seen, name) is None}
    assert missing == ({lost} if lost else set())
    assert seen.is_mig is False
    assert (seen.title_unavailable is not None) == (lost == "title")


def test_an_older_package_lacks_a_call(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = install()
    monkeypatch.delattr(type(fake), "nvmlDeviceGetMigMode")
    monkeypatch.delattr(type(fake), "nvmlSystemGetCudaDriverVersion_v2")
    seen = Driver.seen()
    assert (seen.cuda, seen.is_mig, seen.title) == (None, None, "NVIDIA H200")


@pytest.mark.parametrize("visible", [None, "0", "GPU-aaaa-0", "MIG-cccc-0"])
def test_the_instances_of_a_gpu_in_mig_mode(install: Any, monkeypatch: pytest.MonkeyPatch, visible: str | None) -> None:
    fake = install()
    fake.mig_mode, fake.most_instances = 1, 2
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    seen = Driver.seen()
    assert seen.is_mig
    assert [one.uuid for one in seen.instances] == ["instance 0 of GPU-aaaa-0", "instance 1 of GPU-aaaa-0"]
    assert {one.total_bytes for one in seen.instances} == {1 << 30}


def test_mig_mode_without_an_instance(install: Any) -> None:
    fake = install()
    fake.mig_mode, fake.most_instances = 1, 0
    seen = Driver.seen()
    assert (seen.is_mig, seen.instances, seen.title) == (True, (), None)


def test_hidden_gpus_are_not_looked_at(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install().mig_mode = 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    seen = Driver.seen()
    assert (seen.is_mig, seen.title) == (None, None)
    assert "hides it" in str(seen.title_unavailable)
