import os
import threading
from typing import Any

import pytest

from muse_bench.measure import nvml as sampling
from muse_bench.measure import nvml_device
from muse_bench.measure.nvml import (
    DeviceView,
    NvmlSampler,
    OtherProcess,
    device_title,
    driver_version,
    other_processes,
)

LARGEST_LINUX_PID = 1 << 22
OURS, THEIRS, ANOTHER = (LARGEST_LINUX_PID + number for number in (1, 2, 3))  # no process has these


def play(fake: Any, pid: int | None = OURS) -> DeviceView:
    """Runs a sampler until every reading has been taken."""
    sampler = NvmlSampler(pid=pid, interval_seconds=0.0).start()
    fake.wait()
    return sampler.stop()


def sampler_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "nvml-sampler"]


def assert_nothing_measured(view: DeviceView) -> None:
    assert view.process_peak_bytes is None
    assert view.device_used_before_bytes is None
    assert view.device_used_peak_bytes is None
    assert view.other_processes is None


@pytest.mark.usefixtures("install")
def test_a_missing_package_is_a_reason() -> None:
    view = NvmlSampler(pid=OURS).start().stop()
    assert view.unavailable_reason == nvml_device.NOT_INSTALLED
    assert_nothing_measured(view)


def test_a_missing_driver_is_a_reason(install: Any) -> None:
    fake = install(init="NVMLError: Driver Not Loaded")
    view = NvmlSampler(pid=OURS).start().stop()
    assert view.unavailable_reason == "NVML could not start: Driver Not Loaded"
    assert_nothing_measured(view)
    assert fake.ends == 0  # ending what never started is an error of its own in NVML


def test_a_sampler_that_was_not_started_says_so() -> None:
    assert NvmlSampler(pid=OURS).stop().unavailable_reason == sampling.NOT_STARTED


def test_peaks_are_the_largest_samples_not_the_first_or_the_last(install: Any) -> None:
    fake = install((100, {}), (300, {OURS: 150}), (900, {OURS: 700}), (400, {OURS: 200}), (120, {}))
    view = play(fake)
    assert view.device_used_before_bytes == 100
    assert view.device_used_peak_bytes == 900
    assert view.process_peak_bytes == 700
    assert view.unavailable_reason is None
    assert view.samples >= 5


def test_other_processes_are_listed_and_never_counted_as_ours(install: Any) -> None:
    fake = install((500, {THEIRS: 400}), (900, {THEIRS: 450, OURS: 50}), (700, {THEIRS: 300, OURS: 60}))
    view = play(fake)
    assert view.process_peak_bytes == 60
    assert view.other_processes == (OtherProcess(THEIRS, "program-2", 450),)


def test_a_hidden_name_leaves_the_process_listed(install: Any) -> None:
    fake = install((500, {THEIRS: 400, OURS: 1}), name="NVMLError_NoPermission: Insufficient Permissions")
    assert play(fake).other_processes == (OtherProcess(THEIRS, None, 400),)


def test_the_process_may_be_named_after_the_start(install: Any) -> None:
    fake = install((100, {}), (300, {OURS: 150}))
    sampler = NvmlSampler(interval_seconds=0.0).start()
    sampler.watch(OURS)
    fake.wait()
    assert sampler.stop().process_peak_bytes == 150


def test_no_process_named_is_a_reason_and_the_device_is_still_seen(install: Any) -> None:
    view = play(install((100, {}), (300, {THEIRS: 150})), pid=None)
    assert view.process_peak_bytes is None
    assert view.unavailable_reason == sampling.NO_PROCESS
    assert view.device_used_peak_bytes == 300


def test_memory_not_available_per_process_is_none_not_zero(install: Any) -> None:
    view = play(install((100, {}), (300, {OURS: None, THEIRS: None})))
    assert view.process_peak_bytes is None
    assert view.unavailable_reason == sampling.NO_PROCESS_FIGURE
    assert view.other_processes == (OtherProcess(THEIRS, "program-2", None),)
    assert view.device_used_peak_bytes == 300


@pytest.mark.parametrize("error", ["NVMLError_NotSupported: Not Supported", "NVMLError_NoPermission: MIG"])
def test_without_a_process_list_the_others_are_unknown_not_absent(install: Any, error: str) -> None:
    view = play(install((100, {}), (300, {}), processes=error))
    assert view.other_processes is None
    assert view.unavailable_reason == nvml_device.NO_PROCESS_LIST
    assert view.device_used_peak_bytes == 300


@pytest.mark.parametrize("unsupported", [True, False])
def test_without_a_device_figure_the_process_is_still_seen(install: Any, unsupported: bool) -> None:
    error = "NVMLError_NotSupported: Not Supported"
    view = play(install((None, {OURS: 150}), **({"memory_v2": error} if unsupported else {})))
    assert view.device_used_before_bytes is None
    assert view.device_used_peak_bytes is None
    assert view.process_peak_bytes == 150
    assert view.unavailable_reason == nvml_device.NO_DEVICE_FIGURE


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_a_failure_at_the_start_or_in_the_middle_leaves_no_peak_of_a_part(install: Any, taken: int) -> None:
    view = play(install(*[(900, {OURS: 800})] * taken, "NVMLError: GPU is lost"))
    assert view.unavailable_reason == f"NVML failed after {taken} samples: GPU is lost"
    assert view.samples == taken
    assert_nothing_measured(view)


def test_a_failure_of_the_last_sample_is_a_reason(install: Any) -> None:
    fake = install((900, {OURS: 800}))
    sampler = NvmlSampler(pid=OURS, interval_seconds=3600.0).start()
    fake.readings = ("NVMLError: Unknown Error",)
    view = sampler.stop()
    assert view.unavailable_reason == "NVML failed after 1 samples: Unknown Error"
    assert_nothing_measured(view)


def test_a_failure_to_end_spoils_no_figure(install: Any) -> None:
    view = play(install((100, {OURS: 50}), shutdown="NVMLError: Uninitialized"))
    assert view.process_peak_bytes == 50
    assert view.unavailable_reason is None
    assert view.note == "NVML did not end: Uninitialized"


@pytest.mark.parametrize("last", [(300, {OURS: 150}), "NVMLError: GPU is lost"])
def test_stop_ends_the_thread_and_nvml_once(install: Any, last: Any) -> None:
    fake = install((100, {}), last)
    sampler = NvmlSampler(pid=OURS, interval_seconds=0.0).start()
    fake.wait()
    view = sampler.stop()
    assert sampler_threads() == []
    assert sampler.stop() is view
    assert (fake.starts, fake.ends) == (1, 1)


def test_leaving_the_block_by_an_error_ends_the_thread(install: Any) -> None:
    fake = install()
    with pytest.raises(KeyboardInterrupt), NvmlSampler(pid=OURS, interval_seconds=0.0):
        raise KeyboardInterrupt
    assert sampler_threads() == []
    assert fake.ends == 1


def test_a_mapped_pid_is_found_by_elimination_and_noted(install: Any) -> None:
    others = {ANOTHER: 400}
    view = play(install((500, others), (550, {**others, THEIRS: 50}), (900, {**others, THEIRS: 450})))
    assert view.process_peak_bytes == 450
    assert view.note == sampling.ATTRIBUTED
    assert view.unavailable_reason is None
    assert view.other_processes == (OtherProcess(ANOTHER, "program-3", 400),)


@pytest.mark.parametrize(
    "readings",
    [
        pytest.param([(500, {THEIRS: 400}), (900, {THEIRS: 800})], id="it was there before"),
        pytest.param([(100, {}), (500, {THEIRS: 400}), (500, {THEIRS: 400})], id="it did not grow"),
        pytest.param([(0, {}), (2, {THEIRS: 1, ANOTHER: 1}), (9, {THEIRS: 4, ANOTHER: 5})], id="two came"),
        pytest.param([(100, {}), (100, {})], id="none came"),
    ],
)
def test_another_process_is_not_taken_for_ours(install: Any, readings: Any) -> None:
    view = play(install(*readings))
    assert view.process_peak_bytes is None
    assert view.unavailable_reason == sampling.NOT_LISTED
    assert view.note is None


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="needs /proc")
def test_a_process_of_this_pid_namespace_is_not_taken_for_ours(install: Any) -> None:
    view = play(install((0, {}), (20, {os.getpid(): 10}), (90, {os.getpid(): 80})))
    assert view.process_peak_bytes is None
    assert view.unavailable_reason == sampling.NOT_LISTED


def test_the_driver_version_is_none_where_nvml_cannot_say(install: Any) -> None:
    assert driver_version() is None
    fake = install()
    assert driver_version() == "580.65.06"
    fake.errors["version"] = "NVMLError: Unknown Error"
    assert driver_version() is None
    assert (fake.starts, fake.ends) == (2, 2)


def test_the_devices_title_is_text_and_nvml_is_ended(install: Any) -> None:
    fake = install()
    assert device_title() == "NVIDIA H200"
    fake.title = b"Tesla T4"  # as older versions of the package have it
    assert device_title() == "Tesla T4"
    assert (fake.starts, fake.ends) == (2, 2)


def test_a_device_without_a_title_or_no_device_is_unavailable(install: Any) -> None:
    with pytest.raises(nvml_device.UnavailableError, match="not installed"):
        device_title()
    fake = install(title="NVMLError: GPU is lost")
    with pytest.raises(nvml_device.UnavailableError, match="does not name device 0: GPU is lost"):
        device_title()
    assert fake.ends == 1


def test_other_processes_leaves_this_process_out(install: Any) -> None:
    assert other_processes() is None
    install((100, {THEIRS: 40, os.getpid(): 50}))
    assert other_processes() == (OtherProcess(THEIRS, "program-2", 40),)
