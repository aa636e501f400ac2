import subprocess
import sys

import pytest

from muse_bench.errors import UsageError
from muse_bench.predict.gpus import (
    Gpu,
    cublas_workspace_bytes,
    cublaslt_workspace_bytes,
    find_gpu,
    gpu_names,
    libraries_bytes,
    workspaces_are_kept,
)
from muse_bench.units import GIB, KIB, MIB

AMPERE, HOPPER, BLACKWELL, THOR, GEFORCE_BLACKWELL = (8, 6), (9, 0), (10, 0), (11, 0), (12, 0)
SMALL_BYTES = 8_519_680


def all_gpus() -> list[Gpu]:
    return [find_gpu(name) for name in gpu_names()]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("rtx-3080", "rtx-3080"),
        ("RTX 3080", "rtx-3080"),
        ("rtx_3080", "rtx-3080"),
        ("RTX3080", "rtx-3080"),
        (" NVIDIA GeForce RTX 3080 ", "rtx-3080"),
        ("RTX 3080 12GB", "rtx-3080-12gb"),
        ("NVIDIA GeForce RTX 4060 Laptop GPU", "rtx-4060-laptop"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("Tesla T4", "t4"),
    ],
)
def test_a_gpu_is_found_by_any_spelling_and_by_its_title(name: str, found: str) -> None:
    assert find_gpu(name).name == found


def test_names_are_unique_and_no_two_spellings_collide() -> None:
    names = gpu_names()
    assert len(set(names)) == len(names)
    assert [find_gpu(name).name for name in names] == list(names)


def test_every_title_finds_a_gpu_of_that_title() -> None:
    for gpu in all_gpus():
        assert find_gpu(gpu.title).title == gpu.title


def test_memory_sizes_of_one_title_stay_apart() -> None:
    small, large = find_gpu("rtx-3080"), find_gpu("rtx-3080-12gb")
    assert small.title == large.title
    assert small.total_bytes <= 10 * GIB < large.total_bytes <= 12 * GIB


@pytest.mark.parametrize("name", ["rtx-3081", "", "RTX 4090\nTi", "gpu"])
def test_an_unknown_name_is_one_line_with_the_closest(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_gpu(name)
    message = str(caught.value)
    assert message.startswith(f"{name!r} is not a known GPU; the closest are ")
    assert len(message.splitlines()) == 1


def test_the_closest_names_are_close() -> None:
    with pytest.raises(UsageError, match=r"rtx-3080\b"):
        find_gpu("NVIDIA GeForce RTX 3O80")
    with pytest.raises(UsageError, match="v100-32gb"):
        find_gpu("v100")


def test_a_slip_of_a_unit_or_a_column_would_leave_these_ranges() -> None:
    for gpu in all_gpus():
        assert 5 * GIB < gpu.total_bytes <= 180 * GIB, gpu.name
        assert 140 * 10**9 <= gpu.memory_bandwidth_bytes_per_second <= 8_000 * 10**9, gpu.name
        assert 15 * 10**9 < gpu.host_link_bytes_per_second < gpu.memory_bandwidth_bytes_per_second, gpu.name
        assert 18 <= gpu.sm_count <= 188, gpu.name
        assert 100 * MIB < gpu.context_bytes < gpu.total_bytes // 10, gpu.name


def test_a_size_in_the_name_is_the_size_of_the_memory() -> None:
    for gpu in all_gpus():
        sizes = [int(part[:-2]) for part in gpu.name.split("-") if part.endswith("gb")]
        for size in sizes:
            assert 0.9 * size * GIB < gpu.total_bytes <= size * GIB, gpu.name


def test_bytes_are_integers() -> None:
    for gpu in all_gpus():
        for field in (
            gpu.total_bytes,
            gpu.memory_bandwidth_bytes_per_second,
            gpu.host_link_bytes_per_second,
            gpu.context_bytes,
        ):
            assert type(field) is int, gpu.name


def test_a_pcie_link_is_the_line_rate_after_its_code() -> None:
    assert find_gpu("rtx-2080-ti").host_link_bytes_per_second == 15_753_846_153  # 8 GT/s x 16, 128 of 130 bits
    assert find_gpu("rtx-4060").host_link_bytes_per_second == 15_753_846_153  # twice the rate, half the lanes
    assert find_gpu("h100").host_link_bytes_per_second == 63_015_384_615
    assert find_gpu("rtx-4060").host_link_source == "PCIe 4.0 x8, theoretical"


def test_the_busier_direction_of_the_link_counts() -> None:
    gpu = find_gpu("h200")
    assert gpu.host_link_source.startswith("measured")
    assert gpu.link_seconds(104 * 10**9, 52 * 10**9) == gpu.link_seconds(0, 104 * 10**9) == 2.0


def test_the_measured_context_is_not_an_estimate_and_the_rule_goes_through_its_two_points() -> None:
    h200, ada = find_gpu("h200"), find_gpu("rtx-6000-ada")
    assert h200.context_bytes == 614 * MIB
    assert h200.context_source.startswith("measured")
    assert find_gpu("h100").context_bytes == h200.context_bytes  # as many SMs of the same kind
    assert ada.context_bytes - 426 * MIB == 86 * MIB  # bare context measured there, kernels from the H200
    assert [gpu.name for gpu in all_gpus() if not gpu.context_source.startswith("estimated")] == ["h200"]


def test_every_figure_names_its_source() -> None:
    for gpu in all_gpus():
        nominal = gpu.total_bytes % GIB == 0
        assert gpu.total_source.startswith("nominal") == nominal, gpu.name
        assert gpu.specification_source, gpu.name


@pytest.mark.parametrize(
    ("release", "large"),
    [
        ((2, 10), {HOPPER}),
        ((2, 11), {HOPPER}),
        ((2, 12), {HOPPER, BLACKWELL, GEFORCE_BLACKWELL}),
        ((2, 13), {HOPPER, BLACKWELL, GEFORCE_BLACKWELL}),
        ((2, 14), {HOPPER, BLACKWELL, THOR, GEFORCE_BLACKWELL}),
        ((2, 15), {HOPPER, BLACKWELL, THOR, GEFORCE_BLACKWELL}),
    ],
)
def test_cublas_default_by_capability_and_release(release: tuple[int, int], large: set[tuple[int, int]]) -> None:
    for capability in (AMPERE, HOPPER, BLACKWELL, THOR, GEFORCE_BLACKWELL):
        expected = 32 * MIB if capability in large else SMALL_BYTES
        assert cublas_workspace_bytes(capability, None, release) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (":4096:2:16:8", SMALL_BYTES),
        (":4096:8", 32 * MIB),
        (":16:8", 128 * KIB),
        (":0:0", 0),
        ("", 32 * MIB),
        (None, 32 * MIB),
    ],
)
def test_cublas_config_is_pairs_of_kib_and_count(config: str | None, expected: int) -> None:
    assert cublas_workspace_bytes(HOPPER, config) == expected


@pytest.mark.parametrize("config", ["4096:8", ":4096", ":4096:8:", ":4096:8:16", ":-1:8", "off", ":4096:8\n"])
def test_a_malformed_cublas_config_is_refused_not_guessed(config: str) -> None:
    with pytest.raises(ValueError, match="CUBLAS_WORKSPACE_CONFIG"):
        cublas_workspace_bytes(AMPERE, config)


def test_cublas_and_cublaslt_of_two_handles_are_what_the_h200_was_measured_to_take() -> None:
    # 505.01 MiB with the default workspace less 440.01 without: two handles, of which one used cuBLASLt
    assert 2 * cublas_workspace_bytes(HOPPER, None) + cublaslt_workspace_bytes(HOPPER, {}) == 65 * MIB
    off = {"CUBLAS_WORKSPACE_CONFIG": ":0:0"}
    assert cublaslt_workspace_bytes(HOPPER, off) == 0  # without this the 440.01 would hold 1 MiB more


UNIFIED = "TORCH_CUBLASLT_UNIFIED_WORKSPACE"
SIZE = "CUBLASLT_WORKSPACE_SIZE"
KEEP = "TORCH_CUBLAS_WORKSPACE_CACHE"


@pytest.mark.parametrize(
    ("release", "environment", "expected"),
    [
        ((2, 11), {}, MIB),
        ((2, 11), {SIZE: "512"}, 512 * KIB),
        ((2, 11), {SIZE: "65536"}, SMALL_BYTES),  # never more than cuBLAS's
        ((2, 11), {SIZE: "65536", UNIFIED: "0"}, 64 * MIB),
        ((2, 11), {SIZE: "0"}, 0),
        ((2, 11), {SIZE: ""}, MIB),
        ((2, 11), {UNIFIED: "1"}, 0),
        ((2, 11), {UNIFIED: "yes"}, MIB),
        ((2, 12), {}, 0),
        ((2, 12), {UNIFIED: "0"}, MIB),
        ((2, 14), {SIZE: "65536"}, 0),
        ((2, 15), {}, MIB),
        ((2, 15), {SIZE: "65536"}, 64 * MIB),
        ((2, 15), {KEEP: "1"}, 0),
        ((2, 15), {KEEP: "1", UNIFIED: "0"}, MIB),
    ],
)
def test_cublaslt_takes_what_the_release_does_not_share(
    release: tuple[int, int], environment: dict[str, str], expected: int
) -> None:
    assert cublaslt_workspace_bytes(AMPERE, environment, release) == expected


@pytest.mark.parametrize("size", ["1 MiB", "-1", "1.5"])
def test_a_malformed_cublaslt_size_is_refused(size: str) -> None:
    with pytest.raises(ValueError, match=SIZE):
        cublaslt_workspace_bytes(AMPERE, {SIZE: size})


def test_workspaces_stay_allocated_until_the_release_that_frees_them() -> None:
    assert workspaces_are_kept({})
    assert workspaces_are_kept({}, (2, 14))
    assert not workspaces_are_kept({}, (2, 15))
    assert workspaces_are_kept({KEEP: "1"}, (2, 15))


def test_the_table_needs_no_torch() -> None:
    code = "import sys, muse_bench.predict.gpus; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_libraries_add_what_the_measured_cases_show() -> None:
    """On the H200: 64 MiB a cuBLAS handle, 8 MiB a cuDNN handle, nothing for cuBLAS without workspaces."""
    assert libraries_bytes((9, 0), 1, 0, None) == 64 * MIB
    assert libraries_bytes((9, 0), 2, 2, None) == 144 * MIB
    assert libraries_bytes((9, 0), 2, 0, ":0:0") == 0
