"""NVML that fails, and a clock that jumps.

A pynvml that breaks where it is told to takes the package's place; cases are measured by a stand-in for a GPU's worker.
"""

import ast
from pathlib import Path

import pytest

STANDING = Path(__file__).parent / "standing"
SOURCES = sorted((Path(__file__).parents[2] / "muse_bench").rglob("*.py"))
MIB = 1 << 20
# The call that breaks from its Nth use on, and how; what is then said, and whether the device's peak is still known.
BREAKS = {
    "at the start": ("nvmlInit", "NVMLError", "NVML could not start: GPU is lost", False),
    "at the start, by the system": ("nvmlInit", "OSError", "NVML could not start: GPU is lost", False),
    "in finding the device": ("nvmlDeviceGetHandleByIndex", "NVMLError", "NVML could not open device 0", False),
    "at the first sample": ("nvmlDeviceGetMemoryInfo", "NVMLError", "NVML failed after 0 samples: GPU is lost", False),
    "in the middle": ("nvmlDeviceGetMemoryInfo:6", "NVMLError", "samples: GPU is lost", False),
    "in the middle, as nobody expects": ("nvmlDeviceGetMemoryInfo:6", "RuntimeError", "samples: GPU is lost", False),
    "at the end": ("nvmlShutdown", "NVMLError", None, True),
    "at the end, by the system": ("nvmlShutdown", "OSError", None, True),
    "never": ("nothing", "NVMLError", None, True),
}


@pytest.mark.fault(
    "NVML fails at the start, in finding the device, at the first sample, in the middle or at the end, in several ways",
    "the case is measured; the device's peak is missing, with the reason, unless all samples had been taken",
)
def test_nvml_that_fails_costs_the_devices_peak_alone(muse_bench, counted):
    """An error of another kind than NVML's own ended the sampler's thread: the peak of a part passed for the run's."""
    for when, (call, kind, reason, known) in BREAKS.items():
        left = measured(muse_bench, call, kind)
        (record,) = left.records
        assert (left.code, left.err, record["status"]) == (0, "", "ok"), when
        assert record["peak_allocated_bytes"] == 100 * MIB
        assert record["device_peak_bytes"] == (900 * MIB if known else None), when
        assert reason is None or any(reason in note for note in record["notes"]), (when, record["notes"])
    counted(ways=len(BREAKS) - 1, cases_measured=len(BREAKS) - 1, wrong_peaks=0, exit_code=0)


@pytest.mark.fault("NVML stops answering in the middle", "after 10 s the case goes on without the device's peak")
def test_nvml_that_is_silent_does_not_hold_the_run(muse_bench, counted):
    """The run waited for the sampler's thread, which waited for the driver: for good."""
    left = measured(muse_bench, "nvmlDeviceGetMemoryInfo:6", "silence")
    (record,) = left.records
    assert (left.code, left.err, record["device_peak_bytes"]) == (0, "", None)
    assert any("NVML has not answered for 10 s" in note for note in record["notes"])
    counted(cases_measured=1, seconds_to_notice=10, exit_code=left.code)


def measured(muse_bench, call, kind):
    paths, environment = (STANDING / "broken_nvml",), {"NVML_BREAKS": call, "NVML_BREAKS_BY": kind}
    arguments = ("compare", "--models", "baseline", *muse_bench.MEASURED)
    return muse_bench(*arguments, stands_in=True, paths=paths, environment=environment)


@pytest.mark.fault(
    "a wall clock that jumps back by a year and forward by two, in every process",
    "durations and --timeout are right: they are of the monotonic clock",
)
def test_a_clock_that_jumps_changes_no_duration(muse_bench, counted):
    """A time limit that passed at once, or never; a duration that is negative or a year."""
    paths = (STANDING / "jumping_clock",)
    among = ("--timeout", "60", *muse_bench.PREDICTED)
    left = muse_bench("compare", "--models", "baseline,ultra", *among, paths=paths)
    assert [record["status"] for record in left.records] == ["ok", "ok"]
    assert all(0 < record["duration_seconds"] < 60 for record in left.records)
    counted(cases=2, durations_off_by_more_than_a_minute=0, exit_code=left.code)


def test_nothing_reads_the_wall_clock():
    """A duration of two readings of a clock that somebody sets."""
    found = [
        f"{path.name}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("time.time", "time.time_ns")
    ]
    assert found == []
