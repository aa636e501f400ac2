"""GPUs as rows of data, and the workspace that PyTorch gives cuBLAS on each of them. Imports no torch."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from muse_bench.errors import UsageError
from muse_bench.units import GIB, KIB, MIB

Capability = tuple[int, int]
Release = tuple[int, int]

MEASURED_RELEASE: Release = (2, 11)  # the PyTorch of the recorded measurements

_SPECIFICATION = "NVIDIA product specification; PCIe as the theoretical rate of one direction"
_LAPTOP = _SPECIFICATION + "; a laptop may have slower memory or fewer lanes than this, the largest version"
_NOMINAL = "nominal size; CUDA on Linux reports 1 to 9 % less"
_LOGGED = "total memory that CUDA reports on Linux, the smallest seen in public logs; drivers differ by up to 3 %"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU: its memory, its links, and what a process pays before it allocates anything.

    `total_bytes` is PyTorch's total_memory where `total_source` says so. `host_link_bytes_per_second` is
    one direction, while the other may be as busy. `context_bytes` is the CUDA context and the kernels that a PyTorch
    model loads; what its libraries add is `libraries_bytes`.
    """

    name: str
    title: str
    compute_capability: Capability
    sm_count: int
    total_bytes: int
    total_source: str
    memory_bandwidth_bytes_per_second: int
    host_link_bytes_per_second: int
    host_link_source: str
    specification_source: str
    context_bytes: int
    context_source: str

    def link_seconds(self, to_device_bytes: int, to_host_bytes: int) -> float:
        """The least time in which so much crosses the link to the host: both directions at once."""
        return max(to_device_bytes, to_host_bytes) / self.host_link_bytes_per_second


class Link(NamedTuple):
    """A link between host and device: its rate in one direction, and where that is from."""

    bytes_per_second: int
    source: str


# The context holds a local-memory pool for every thread the GPU can keep resident (threads of an SM x SMs x
# bytes a thread, as NVIDIA describes it). 2 KiB a thread is what a bare PyTorch context takes on an RTX 6000
# Ada: 426 MiB for 142 x 1,536 threads. What the H200 takes beyond that is the code of kernels, taken to be the
# same everywhere. Its 614 MiB are what 44 measured cases hold beyond reserved memory and libraries.
RESIDENT_THREADS: dict[Capability, int] = {
    (7, 0): 2048,
    (7, 5): 1024,
    (8, 0): 2048,
    (8, 6): 1536,
    (8, 9): 1536,
    (9, 0): 2048,
    (10, 0): 2048,
    (12, 0): 1536,
}
_CONTEXT_PER_THREAD_BYTES = 2 * KIB
_H200_CONTEXT_BYTES = 614 * MIB
_H200_SM_COUNT = 132
_KERNELS_BYTES = _H200_CONTEXT_BYTES - _H200_SM_COUNT * 2048 * _CONTEXT_PER_THREAD_BYTES
_ESTIMATED_CONTEXT = "estimated: 86 MiB of kernels and 2 KiB for each thread the GPU keeps resident"


def estimated_context_bytes(compute_capability: Capability, sm_count: int) -> int:
    """Context of an unmeasured GPU: kernels as on the H200, and 2 KiB a resident thread."""
    return _KERNELS_BYTES + sm_count * RESIDENT_THREADS[compute_capability] * _CONTEXT_PER_THREAD_BYTES


def _pcie(generation: int, lanes: int) -> Link:
    """The theoretical rate after the 128b/130b line code."""
    transfers_per_second = {3: 8, 4: 16, 5: 32}[generation] * 10**9
    return Link(lanes * transfers_per_second * 128 // (130 * 8), f"PCIe {generation}.0 x{lanes}, theoretical")


def _gpu(name: str, title: str, capability: Capability, sm_count: int, gigabytes_per_second: float, link: Link,
         gibibytes: int, logged_mib: int | None = None) -> Gpu:  # fmt: skip
    """A row whose context is estimated."""
    return Gpu(
        name=name,
        title=title,
        compute_capability=capability,
        sm_count=sm_count,
        total_bytes=gibibytes * GIB if logged_mib is None else logged_mib * MIB,
        total_source=_NOMINAL if logged_mib is None else _LOGGED,
        memory_bandwidth_bytes_per_second=round(gigabytes_per_second * 10**9),
        host_link_bytes_per_second=link.bytes_per_second,
        host_link_source=link.source,
        specification_source=_LAPTOP if "laptop" in name else _SPECIFICATION,
        context_bytes=estimated_context_bytes(capability, sm_count),
        context_source=_ESTIMATED_CONTEXT,
    )


_P3X16, _P4X8, _P4X16, _P5X8, _P5X16 = _pcie(3, 16), _pcie(4, 8), _pcie(4, 16), _pcie(5, 8), _pcie(5, 16)
_NVLINK_C2C = Link(450 * 10**9, "NVLink-C2C, theoretical")
_H200_LINK = Link(52 * 10**9, "measured from pinned memory on PCIe 5.0 x16")

_H200 = Gpu(
    name="h200",
    title="NVIDIA H200",
    compute_capability=(9, 0),
    sm_count=_H200_SM_COUNT,
    total_bytes=143_156 * MIB,
    total_source=_LOGGED + "; nvidia-smi counts 143,771 MiB",
    memory_bandwidth_bytes_per_second=4_800 * 10**9,
    host_link_bytes_per_second=_H200_LINK.bytes_per_second,
    host_link_source=_H200_LINK.source,
    specification_source=_SPECIFICATION,
    context_bytes=_H200_CONTEXT_BYTES,
    context_source="measured: NVML process memory less reserved and libraries, in reports/h200",
)

# name, title, capability, SMs, memory GB/s, host link, nominal GiB, MiB as logged
# fmt: off
_GPUS = (
    _gpu("gtx-1660", "NVIDIA GeForce GTX 1660", (7, 5), 22, 192.1, _P3X16, 6),
    _gpu("gtx-1660-super", "NVIDIA GeForce GTX 1660 SUPER", (7, 5), 22, 336.0, _P3X16, 6),
    _gpu("gtx-1660-ti", "NVIDIA GeForce GTX 1660 Ti", (7, 5), 24, 288.0, _P3X16, 6, 5_747),
    _gpu("rtx-2060", "NVIDIA GeForce RTX 2060", (7, 5), 30, 336.0, _P3X16, 6, 5_917),
    _gpu("rtx-2060-12gb", "NVIDIA GeForce RTX 2060", (7, 5), 34, 336.0, _P3X16, 12, 11_833),
    _gpu("rtx-2060-super", "NVIDIA GeForce RTX 2060 SUPER", (7, 5), 34, 448.0, _P3X16, 8, 7_965),
    _gpu("rtx-2070", "NVIDIA GeForce RTX 2070", (7, 5), 36, 448.0, _P3X16, 8, 7_982),
    _gpu("rtx-2070-super", "NVIDIA GeForce RTX 2070 SUPER", (7, 5), 40, 448.0, _P3X16, 8, 7_786),
    _gpu("rtx-2080", "NVIDIA GeForce RTX 2080", (7, 5), 46, 448.0, _P3X16, 8),
    _gpu("rtx-2080-super", "NVIDIA GeForce RTX 2080 SUPER", (7, 5), 48, 496.0, _P3X16, 8),
    _gpu("rtx-2080-ti", "NVIDIA GeForce RTX 2080 Ti", (7, 5), 68, 616.0, _P3X16, 11, 10_823),
    _gpu("titan-rtx", "NVIDIA TITAN RTX", (7, 5), 72, 672.0, _P3X16, 24),

    _gpu("rtx-3050", "NVIDIA GeForce RTX 3050", (8, 6), 20, 224.0, _P4X8, 8),
    _gpu("rtx-3050-6gb", "NVIDIA GeForce RTX 3050", (8, 6), 18, 168.0, _P4X8, 6, 5_803),
    _gpu("rtx-3050-6gb-laptop", "NVIDIA GeForce RTX 3050 6GB Laptop GPU", (8, 6), 20, 144.0, _P4X8, 6),
    _gpu("rtx-3060", "NVIDIA GeForce RTX 3060", (8, 6), 28, 360.0, _P4X16, 12, 11_931),
    _gpu("rtx-3060-8gb", "NVIDIA GeForce RTX 3060", (8, 6), 28, 240.0, _P4X16, 8),
    _gpu("rtx-3060-laptop", "NVIDIA GeForce RTX 3060 Laptop GPU", (8, 6), 30, 336.0, _P4X16, 6, 5_795),
    _gpu("rtx-3060-ti", "NVIDIA GeForce RTX 3060 Ti", (8, 6), 38, 448.0, _P4X16, 8, 7_972),
    _gpu("rtx-3070", "NVIDIA GeForce RTX 3070", (8, 6), 46, 448.0, _P4X16, 8, 7_817),
    _gpu("rtx-3070-laptop", "NVIDIA GeForce RTX 3070 Laptop GPU", (8, 6), 40, 448.0, _P4X16, 8),
    _gpu("rtx-3070-ti", "NVIDIA GeForce RTX 3070 Ti", (8, 6), 48, 608.3, _P4X16, 8),
    _gpu("rtx-3070-ti-laptop", "NVIDIA GeForce RTX 3070 Ti Laptop GPU", (8, 6), 46, 448.0, _P4X16, 8, 7_851),
    _gpu("rtx-3080", "NVIDIA GeForce RTX 3080", (8, 6), 68, 760.3, _P4X16, 10, 10_014),
    _gpu("rtx-3080-12gb", "NVIDIA GeForce RTX 3080", (8, 6), 70, 912.4, _P4X16, 12),
    _gpu("rtx-3080-laptop", "NVIDIA GeForce RTX 3080 Laptop GPU", (8, 6), 48, 448.0, _P4X16, 8),
    _gpu("rtx-3080-laptop-16gb", "NVIDIA GeForce RTX 3080 Laptop GPU", (8, 6), 48, 448.0, _P4X16, 16),
    _gpu("rtx-3080-ti", "NVIDIA GeForce RTX 3080 Ti", (8, 6), 80, 912.4, _P4X16, 12),
    _gpu("rtx-3080-ti-laptop", "NVIDIA GeForce RTX 3080 Ti Laptop GPU", (8, 6), 58, 512.0, _P4X16, 16),
    _gpu("rtx-3090", "NVIDIA GeForce RTX 3090", (8, 6), 82, 936.2, _P4X16, 24, 24_121),
    _gpu("rtx-3090-ti", "NVIDIA GeForce RTX 3090 Ti", (8, 6), 84, 1008.3, _P4X16, 24, 24_114),

    _gpu("rtx-4050-laptop", "NVIDIA GeForce RTX 4050 Laptop GPU", (8, 9), 20, 192.0, _P4X8, 6),
    _gpu("rtx-4060", "NVIDIA GeForce RTX 4060", (8, 9), 24, 272.0, _P4X8, 8),
    _gpu("rtx-4060-laptop", "NVIDIA GeForce RTX 4060 Laptop GPU", (8, 9), 24, 256.0, _P4X8, 8, 7_940),
    _gpu("rtx-4060-ti", "NVIDIA GeForce RTX 4060 Ti", (8, 9), 34, 288.0, _P4X8, 8),
    _gpu("rtx-4060-ti-16gb", "NVIDIA GeForce RTX 4060 Ti", (8, 9), 34, 288.0, _P4X8, 16, 15_948),
    _gpu("rtx-4070", "NVIDIA GeForce RTX 4070", (8, 9), 46, 504.2, _P4X16, 12, 11_866),
    _gpu("rtx-4070-laptop", "NVIDIA GeForce RTX 4070 Laptop GPU", (8, 9), 36, 256.0, _P4X8, 8, 7_805),
    _gpu("rtx-4070-super", "NVIDIA GeForce RTX 4070 SUPER", (8, 9), 56, 504.2, _P4X16, 12),
    _gpu("rtx-4070-ti", "NVIDIA GeForce RTX 4070 Ti", (8, 9), 60, 504.2, _P4X16, 12),
    _gpu("rtx-4070-ti-super", "NVIDIA GeForce RTX 4070 Ti SUPER", (8, 9), 66, 672.3, _P4X16, 16, 15_934),
    _gpu("rtx-4080", "NVIDIA GeForce RTX 4080", (8, 9), 76, 716.8, _P4X16, 16, 16_049),
    _gpu("rtx-4080-laptop", "NVIDIA GeForce RTX 4080 Laptop GPU", (8, 9), 58, 432.0, _P4X16, 12),
    _gpu("rtx-4080-super", "NVIDIA GeForce RTX 4080 SUPER", (8, 9), 80, 736.3, _P4X16, 16, 15_937),
    _gpu("rtx-4090", "NVIDIA GeForce RTX 4090", (8, 9), 128, 1008.1, _P4X16, 24, 24_080),
    _gpu("rtx-4090-laptop", "NVIDIA GeForce RTX 4090 Laptop GPU", (8, 9), 76, 576.0, _P4X16, 16),

    _gpu("rtx-5050", "NVIDIA GeForce RTX 5050", (12, 0), 20, 320.0, _P5X8, 8),
    _gpu("rtx-5050-laptop", "NVIDIA GeForce RTX 5050 Laptop GPU", (12, 0), 20, 384.0, _P5X8, 8),
    _gpu("rtx-5060", "NVIDIA GeForce RTX 5060", (12, 0), 30, 448.0, _P5X8, 8),
    _gpu("rtx-5060-laptop", "NVIDIA GeForce RTX 5060 Laptop GPU", (12, 0), 26, 384.0, _P5X8, 8),
    _gpu("rtx-5060-ti", "NVIDIA GeForce RTX 5060 Ti", (12, 0), 36, 448.0, _P5X8, 8),
    _gpu("rtx-5060-ti-16gb", "NVIDIA GeForce RTX 5060 Ti", (12, 0), 36, 448.0, _P5X8, 16, 15_816),
    _gpu("rtx-5070", "NVIDIA GeForce RTX 5070", (12, 0), 48, 672.0, _P5X16, 12),
    _gpu("rtx-5070-laptop", "NVIDIA GeForce RTX 5070 Laptop GPU", (12, 0), 36, 384.0, _P5X8, 8),
    _gpu("rtx-5070-ti", "NVIDIA GeForce RTX 5070 Ti", (12, 0), 70, 896.0, _P5X16, 16, 15_808),
    _gpu("rtx-5080", "NVIDIA GeForce RTX 5080", (12, 0), 84, 960.0, _P5X16, 16, 15_880),
    _gpu("rtx-5090", "NVIDIA GeForce RTX 5090", (12, 0), 170, 1792.0, _P5X16, 32, 32_101),

    _gpu("rtx-a2000", "NVIDIA RTX A2000", (8, 6), 26, 288.0, _P4X16, 6),
    _gpu("rtx-a2000-12gb", "NVIDIA RTX A2000 12GB", (8, 6), 26, 288.0, _P4X16, 12),
    _gpu("rtx-a4000", "NVIDIA RTX A4000", (8, 6), 48, 448.0, _P4X16, 16, 15_984),
    _gpu("rtx-a4500", "NVIDIA RTX A4500", (8, 6), 56, 640.0, _P4X16, 20),
    _gpu("rtx-a5000", "NVIDIA RTX A5000", (8, 6), 64, 768.0, _P4X16, 24, 24_114),
    _gpu("rtx-a6000", "NVIDIA RTX A6000", (8, 6), 84, 768.0, _P4X16, 48, 48_676),
    _gpu("rtx-2000-ada", "NVIDIA RTX 2000 Ada Generation", (8, 9), 22, 224.0, _P4X8, 16),
    _gpu("rtx-4000-ada", "NVIDIA RTX 4000 Ada Generation", (8, 9), 48, 360.0, _P4X16, 20),
    _gpu("rtx-4500-ada", "NVIDIA RTX 4500 Ada Generation", (8, 9), 60, 432.0, _P4X16, 24),
    _gpu("rtx-5000-ada", "NVIDIA RTX 5000 Ada Generation", (8, 9), 100, 576.0, _P4X16, 32),
    _gpu("rtx-6000-ada", "NVIDIA RTX 6000 Ada Generation", (8, 9), 142, 960.0, _P4X16, 48, 48_508),
    _gpu("rtx-pro-6000", "NVIDIA RTX PRO 6000 Blackwell Workstation Edition", (12, 0), 188, 1792.0, _P5X16, 96),

    _gpu("t4", "Tesla T4", (7, 5), 40, 320.0, _P3X16, 16, 14_912),
    _gpu("v100-16gb", "Tesla V100-SXM2-16GB", (7, 0), 80, 900.0, _P3X16, 16, 16_130),
    _gpu("v100-32gb", "Tesla V100-SXM2-32GB", (7, 0), 80, 900.0, _P3X16, 32, 32_510),
    _gpu("a10", "NVIDIA A10", (8, 6), 72, 600.0, _P4X16, 24, 22_516),
    _gpu("a10g", "NVIDIA A10G", (8, 6), 80, 600.0, _P4X16, 24, 22_587),
    _gpu("a30", "NVIDIA A30", (8, 0), 56, 933.0, _P4X16, 24),
    _gpu("a40", "NVIDIA A40", (8, 6), 84, 696.0, _P4X16, 48, 45_416),
    _gpu("a100-40gb", "NVIDIA A100-SXM4-40GB", (8, 0), 108, 1555.0, _P4X16, 40, 40_536),
    _gpu("a100-80gb", "NVIDIA A100-SXM4-80GB", (8, 0), 108, 2039.0, _P4X16, 80, 81_051),
    _gpu("a100-pcie-40gb", "NVIDIA A100-PCIE-40GB", (8, 0), 108, 1555.0, _P4X16, 40, 40_338),
    _gpu("a100-pcie-80gb", "NVIDIA A100 80GB PCIe", (8, 0), 108, 1935.0, _P4X16, 80),
    _gpu("l4", "NVIDIA L4", (8, 9), 58, 300.0, _P4X16, 24, 22_518),
    _gpu("l40s", "NVIDIA L40S", (8, 9), 142, 864.0, _P4X16, 48, 45_373),
    _gpu("h100", "NVIDIA H100 80GB HBM3", (9, 0), 132, 3350.0, _P5X16, 80, 81_079),
    _gpu("h100-pcie", "NVIDIA H100 PCIe", (9, 0), 114, 2039.0, _P5X16, 80, 81_008),
    _H200,
    _gpu("gh200", "NVIDIA GH200 480GB", (9, 0), 132, 4000.0, _NVLINK_C2C, 96, 96_768),
    _gpu("b200", "NVIDIA B200", (10, 0), 148, 8000.0, _P5X16, 180, 182_631),
)
# fmt: on


def _key(name: str) -> str:
    """A name without case, separators and the words that brand it."""
    plain = re.sub(r"\b(nvidia|geforce|tesla|generation|gpu)\b", "", name.lower())
    return re.sub(r"[^a-z0-9]", "", plain)


# Titles first: several sizes share one, and there the row that is named like the title stands for it.
_BY_KEY = {_key(gpu.title): gpu for gpu in reversed(_GPUS)} | {_key(gpu.name): gpu for gpu in _GPUS}


def gpu_names() -> tuple[str, ...]:
    """The names of all GPUs in the table."""
    return tuple(gpu.name for gpu in _GPUS)


def find_gpu(name: str) -> Gpu:
    """The GPU of this name or CUDA title, whatever its case, spaces and underscores.

    Raises: UsageError when the table has no such GPU; names the closest.
    """
    key = _key(name)
    if key not in _BY_KEY:
        names = {_key(known): known for known in gpu_names()}
        closest = [names[match] for match in difflib.get_close_matches(key, names, n=4, cutoff=0.0)]
        raise UsageError(f"{name!r} is not a known GPU; the closest are {', '.join(closest)}")
    return _BY_KEY[key]


# What follows is at::cuda's CublasHandlePool.cpp, read from the public source and from the code of the CUDA
# wheels of 2.11.0, 2.12.0, 2.13.0, 2.14.1 and 2.15.0. 32 MiB a handle and stream where the capability's major
# number is listed, else :4096:2:16:8. (pytorch#91564 Hopper, #175344 Blackwell, #189312 Thor.)
_SMALL_WORKSPACE_BYTES = (4096 * 2 + 16 * 8) * KIB
_LARGE_WORKSPACE_BYTES = 4096 * 8 * KIB
_LARGE_WORKSPACE_MAJORS: tuple[tuple[Release, frozenset[int]], ...] = (
    ((2, 14), frozenset({9, 10, 11, 12})),
    ((2, 12), frozenset({9, 10, 12})),
    ((0, 0), frozenset({9})),
)
_CUBLASLT_DEFAULT_KIB = 1024


def cublas_workspace_bytes(
    compute_capability: Capability, config: str | None, release: Release = MEASURED_RELEASE
) -> int:
    """Bytes of PyTorch's workspace for one cuBLAS handle and stream.

    Args:
        config: CUBLAS_WORKSPACE_CONFIG, pairs of a size in KiB and a count such as ':4096:2:16:8'; None or
            empty for PyTorch's default.
        release: PyTorch's major and minor version, on which the default depends.
    Raises: ValueError on a malformed config (PyTorch only warns and takes its default).
    """
    if config:
        return _config_bytes(config)
    majors = next(majors for since, majors in _LARGE_WORKSPACE_MAJORS if release >= since)
    return _LARGE_WORKSPACE_BYTES if compute_capability[0] in majors else _SMALL_WORKSPACE_BYTES


def _config_bytes(config: str) -> int:
    if not re.fullmatch(r"(:\d+:\d+)+", config, re.ASCII):
        raise ValueError(f"CUBLAS_WORKSPACE_CONFIG {config!r} is not pairs :KIB:COUNT, such as :4096:2:16:8")
    return sum(int(size) * int(count) * KIB for size, count in re.findall(r":(\d+):(\d+)", config))


def cublaslt_workspace_bytes(
    compute_capability: Capability, environment: Mapping[str, str], release: Release = MEASURED_RELEASE
) -> int:
    """Bytes that cuBLASLt takes on top of cuBLAS's workspace, for one handle and stream; 0 where they share it.

    Up to 2.11 it has memory of its own, never more than cuBLAS's; from 2.12 it shares cuBLAS's; from 2.15 on
    nothing is kept, so nothing is shared. TORCH_CUBLASLT_UNIFIED_WORKSPACE set to 0 or 1 overrides this.

    Raises: ValueError on a CUBLASLT_WORKSPACE_SIZE that is not a number of KiB.
    """
    size = environment.get("CUBLASLT_WORKSPACE_SIZE") or str(_CUBLASLT_DEFAULT_KIB)
    if not re.fullmatch(r"\d+", size, re.ASCII):
        raise ValueError(f"CUBLASLT_WORKSPACE_SIZE {size!r} is not a number of KiB")
    wanted = int(size) * KIB
    unified = _flag(environment, "TORCH_CUBLASLT_UNIFIED_WORKSPACE")
    if unified is False or not workspaces_are_kept(environment, release):
        return wanted
    if unified or release >= (2, 12):
        return 0
    config = environment.get("CUBLAS_WORKSPACE_CONFIG")
    return min(wanted, cublas_workspace_bytes(compute_capability, config, release))


def workspaces_are_kept(environment: Mapping[str, str], release: Release = MEASURED_RELEASE) -> bool:
    """Whether a workspace, once taken, stays allocated; from 2.15 it is freed after each call unless asked."""
    return release < (2, 15) or _flag(environment, "TORCH_CUBLAS_WORKSPACE_CACHE") is True


OWN_STREAM_BYTES = 72 * MIB  # of steps on a stream of their own, captured or not: 68 to 78 in seven records of muse
CUDNN_BYTES = 8 * MIB  # a thread's first use of cuDNN's attention, on the H200


def libraries_bytes(compute_capability: Capability, blas_handles: int, cudnn_handles: int, config: str | None) -> int:
    """Device memory that libraries take outside the allocator, as measured on the H200.

    A cuBLAS handle holds workspaces of its own beside PyTorch's, twice that size (64 MiB on Hopper), and none where
    CUBLAS_WORKSPACE_CONFIG leaves it none.
    """
    return blas_handles * 2 * cublas_workspace_bytes(compute_capability, config) + cudnn_handles * CUDNN_BYTES


def _flag(environment: Mapping[str, str], name: str) -> bool | None:
    """PyTorch's check_env: anything but 0 and 1 counts as unset."""
    return {"0": False, "1": True}.get(environment.get(name, ""))
