"""What the kernel and control groups say, read from files that are made for it."""

from pathlib import Path

import pytest

from muse_bench.host_memory import available_bytes, limit_bytes, total_bytes

MIB = 1 << 20


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


@pytest.fixture
def machine(tmp_path: Path) -> tuple[Path, Path]:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    write(proc, meminfo="MemTotal:  8388608 kB\nMemFree:  1024 kB\nMemAvailable:    4194304 kB")
    write(proc / "self", cgroup="0::/jobs/mine")
    write(groups)
    return proc, groups


def test_without_groups_it_is_what_the_kernel_says(machine: tuple[Path, Path]) -> None:
    assert available_bytes(*machine) == 4096 * MIB


def test_a_system_without_such_files_says_nothing(tmp_path: Path) -> None:
    assert available_bytes(tmp_path, tmp_path) is None


def test_the_tightest_group_up_to_the_root_counts(machine: tuple[Path, Path]) -> None:
    """Of which the cache of files that were read gives way."""
    proc, groups = machine
    write(groups / "jobs" / "mine", memory__max="max", memory__current=900 * MIB)
    write(groups / "jobs", memory__max=1000 * MIB, memory__current=900 * MIB)
    write(groups / "jobs", memory__stat=f"anon 5\ninactive_file {300 * MIB}")
    assert available_bytes(proc, groups) == 400 * MIB


def test_a_group_that_is_over_its_limit_leaves_nothing(machine: tuple[Path, Path]) -> None:
    proc, groups = machine
    write(groups, memory__max=100, memory__current=200)
    assert available_bytes(proc, groups) == 0


def test_the_first_version_s_groups(machine: tuple[Path, Path]) -> None:
    """In a container the group's own path is not there, and the root of what is shows its limit."""
    proc, groups = machine
    write(proc / "self", cgroup="5:cpu,cpuacct:/docker/7\n4:memory:/docker/7\n0::/")
    write(groups / "memory", memory__limit_in_bytes=2048 * MIB, memory__usage_in_bytes=1024 * MIB)
    write(groups / "memory", memory__stat=f"inactive_file 7\ntotal_inactive_file {MIB}")
    write(groups / "cpu,cpuacct", memory__limit_in_bytes=5, memory__usage_in_bytes=1)
    assert available_bytes(proc, groups) == 1025 * MIB


def test_all_memory_and_the_tightest_limit(machine: tuple[Path, Path]) -> None:
    proc, groups = machine
    assert (total_bytes(proc), limit_bytes(*machine)) == (8192 * MIB, None)
    write(groups / "jobs" / "mine", memory__max=900 * MIB)
    write(groups / "jobs", memory__max=1000 * MIB)
    assert limit_bytes(proc, groups) == 900 * MIB
