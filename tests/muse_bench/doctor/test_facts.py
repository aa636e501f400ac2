"""What a machine's driver, MIG mode and environment mean, each branch over an invented machine."""

import dataclasses

import pytest

from muse_bench.doctor.abilities import abilities
from muse_bench.doctor.environment import environment_facts
from muse_bench.doctor.facts import facts
from muse_bench.doctor.machine import Machine
from muse_bench.doctor.record import Fact
from muse_bench.measure.driver import Driver, Instance
from muse_bench.measure.nvml import DeviceView

MIB = 1 << 20
GPU = {"gpu": "NVIDIA H200", "gpu_total_bytes": 8192 * MIB, "compute_capability": "9.0", "devices": 1}
DRIVER = Driver(version="580.1", cuda=(13, 0), title="NVIDIA H200", is_mig=False)
MEASURES = Machine(
    python="3.12.0",
    variables={},
    software={"torch": "2.13.0+cu130", "cuda": "13.0", "triton": "3.7.0"},
    driver=DRIVER,
    gpu=GPU,
    view=DeviceView(process_peak_bytes=MIB, other_processes=(), interval_seconds=0.005),
)


def found(machine: Machine) -> dict[str, Fact]:
    return {fact.what: fact for fact in facts(machine)}


def with_driver(**changes: object) -> Machine:
    return dataclasses.replace(MEASURES, driver=dataclasses.replace(DRIVER, **changes))  # type: ignore[arg-type]


def without_gpu(machine: Machine) -> Machine:
    return dataclasses.replace(machine, gpu=None, view=None, cuda_unavailable="no CUDA device is visible")


@pytest.mark.parametrize(("cuda", "state"), [((13, 0), "ok"), ((13, 2), "ok"), ((14, 0), "ok"), ((12, 8), "failed")])
def test_a_driver_of_an_older_major_version_is_too_old(cuda: tuple[int, int], state: str) -> None:
    fact = found(without_gpu(with_driver(cuda=cuda)))["driver"]
    assert fact.state == state
    assert ("too old" in fact.found) == (state == "failed")


def test_an_old_driver_that_works_is_not_too_old() -> None:
    """NVIDIA's package for forward compatibility brings what it lacks."""
    assert found(with_driver(cuda=(12, 8)))["driver"].state == "ok"


def test_an_old_driver_of_a_hidden_gpu_breaks_nothing() -> None:
    assert found(without_gpu(with_driver(cuda=(12, 8), title=None)))["driver"].state == "ok"


def test_a_driver_that_was_updated_while_it_ran_is_broken_unless_it_still_works() -> None:
    driver = Driver(unavailable="NVML could not start: Driver/library version mismatch")
    broken = dataclasses.replace(MEASURES, driver=driver)
    assert found(broken)["NVML"].state == "missing"
    assert found(without_gpu(broken))["NVML"].state == "failed"


def test_mig_is_told_with_its_instances() -> None:
    parts = (Instance("MIG 1g.18gb", "MIG-a", 16 * MIB), Instance("MIG 2g.35gb", "MIG-b", 32 * MIB))
    fact = found(with_driver(is_mig=True, instances=parts))["MIG"]
    assert fact.state == "warning"
    assert "the first of 2" in fact.found
    assert "MIG 2g.35gb, 32.0 MiB, MIG-b" in fact.found
    assert found(MEASURES)["MIG"].state == "ok"
    assert found(without_gpu(with_driver(is_mig=True)))["MIG"].state == "failed"
    assert "MIG" not in found(with_driver(is_mig=None))


@pytest.mark.parametrize(
    ("variables", "state", "said"),
    [
        ({"PYTORCH_ALLOC_CONF": "expandable_segments:True"}, "warning", "reserved is nearer to allocated"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "roundup_power2_divisions:4"}, "warning", "rounded up"),
        ({"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, "warning", "1"),
        ({"CUDA_LAUNCH_BLOCKING": "1"}, "warning", "1"),
        ({"CUDA_LAUNCH_BLOCKING": "0"}, "ok", "no variable"),
        ({"CUDA_MODULE_LOADING": "EAGER"}, "warning", "EAGER"),
        ({"CUDA_MODULE_LOADING": "LAZY"}, "ok", "no variable"),
        ({"CUDA_VISIBLE_DEVICES": "1,0"}, "ok", "1,0: the first of them"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "ok", "no variable"),
    ],
)
def test_a_variable_says_what_it_changes(variables: dict[str, str], state: str, said: str) -> None:
    (fact,) = environment_facts(variables)
    assert (fact.state, said in fact.found) == (state, True)


def test_of_two_allocator_settings_the_first_counts() -> None:
    first, second = environment_facts({"PYTORCH_CUDA_ALLOC_CONF": "backend:native", "PYTORCH_ALLOC_CONF": "a:b"})
    assert first.what == "PYTORCH_ALLOC_CONF"
    assert second.advice is not None
    assert "PYTORCH_ALLOC_CONF counts" in second.advice


def test_a_device_that_nvml_does_not_show_is_unavailable_with_what_to_do() -> None:
    view = DeviceView(interval_seconds=0.005, unavailable_reason="NVML failed after 3 samples: GPU is lost")
    kinds = {one.what: one for one in abilities(dataclasses.replace(MEASURES, view=view))}
    device = kinds["peak of the device"]
    assert (device.source, device.found) == ("unavailable", view.unavailable_reason)
    assert device.advice is not None
    assert kinds["peaks and ledger"].source == "measured"


def test_where_torch_does_not_start_nothing_is_said_to_work() -> None:
    broken = dataclasses.replace(MEASURES, gpu=None, view=None, worker_failure="ImportError: libcudart")
    assert {one.source for one in abilities(broken)} == {"unavailable"}
