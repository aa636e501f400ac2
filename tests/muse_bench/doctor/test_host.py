"""What files and limits say of the machine around the GPU."""

import os
from pathlib import Path

import pytest

from muse_bench.doctor.host import FIRST_PIDS, Host, host_facts
from muse_bench.doctor.record import Fact
from muse_bench.measure.nvml import ATTRIBUTED, NOT_LISTED, DeviceView

MIB = 1 << 20
LINK = {"rates": {"to_device": 25.0e9, "to_host": 24.0e9, "both": 20.0e9}, "pinned_bytes": MIB, "refused": None}


def found(host: Host, link: object = None, view: DeviceView | None = None) -> dict[str, Fact]:
    return {fact.what: fact for fact in host_facts(host, link, view)}  # type: ignore[arg-type]


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A machine of 8 GiB, half of it free."""
    (tmp_path / "self" / "ns").mkdir(parents=True)
    (tmp_path / "sys" / "kernel").mkdir(parents=True)
    (tmp_path / "meminfo").write_text("MemTotal:  8388608 kB\nMemAvailable:    4194304 kB\n")
    (tmp_path / "sys" / "kernel" / "osrelease").write_text("6.8.0-generic\n")
    os.symlink(FIRST_PIDS, tmp_path / "self" / "ns" / "pid")
    return tmp_path


def test_a_plain_machine(proc: Path) -> None:
    host = Host.seen(proc)
    assert (host.total_bytes, host.available_bytes) == (8192 * MIB, 4096 * MIB)
    assert (host.is_wsl, host.contains_pids) == (False, False)
    assert "WSL" not in found(host)


def test_wsl_is_told_with_what_it_lacks(proc: Path) -> None:
    (proc / "sys" / "kernel" / "osrelease").write_text("5.15.167.4-microsoft-standard-WSL2\n")
    fact = found(Host.seen(proc))["WSL"]
    assert fact.state == "warning"
    assert "no memory of single processes" in fact.found


def test_a_container_has_numbers_of_its_own(proc: Path) -> None:
    (proc / "self" / "ns" / "pid").unlink()
    os.symlink("pid:[4026533000]", proc / "self" / "ns" / "pid")
    assert Host.seen(proc).contains_pids


def test_a_system_without_such_files_says_so(tmp_path: Path) -> None:
    host = Host.seen(tmp_path)
    assert (host.total_bytes, host.is_wsl, host.contains_pids) == (None, False, False)
    assert found(host)["host memory"].state == "missing"


@pytest.mark.parametrize(("limit", "said"), [(1024 * MIB, True), (1 << 62, False), (None, False)])
def test_a_limit_above_the_memory_is_none(limit: int | None, said: bool) -> None:
    """The first version of control groups writes 'no limit' as a number."""
    text = found(Host(total_bytes=8192 * MIB, available_bytes=MIB, limit_bytes=limit))["host memory"].found
    assert ("control group" in text) == said


def test_what_was_pinned_counts_more_than_the_limit() -> None:
    assert found(Host(pinned_limit_bytes=MIB), LINK)["pinned memory"].state == "ok"
    refused = {"rates": None, "pinned_bytes": None, "refused": "CUDA refused"}
    fact = found(Host(pinned_limit_bytes=MIB), refused)["pinned memory"]
    assert (fact.state, fact.found.startswith("CUDA refused; a limit of 1.0 MiB")) == ("warning", True)


@pytest.mark.parametrize(
    ("contains", "peak", "note", "reason", "state", "said"),
    [
        (False, MIB, None, None, "ok", "the machine's own"),
        (True, MIB, ATTRIBUTED, None, "ok", "the only one that came"),
        (True, MIB, None, None, "ok", "NVML has the same"),
        (True, None, None, NOT_LISTED, "warning", "not found"),
        (True, None, None, "NVML failed after 3 samples: GPU is lost", "warning", "not known"),
    ],
)
def test_whether_a_process_finds_itself(
    contains: bool, peak: int | None, note: str | None, reason: str | None, state: str, said: str
) -> None:
    view = DeviceView(process_peak_bytes=peak, note=note, unavailable_reason=reason, interval_seconds=0.005)
    fact = found(Host(contains_pids=contains), LINK, view)["process ids"]
    assert (fact.state, said in fact.found) == (state, True)
