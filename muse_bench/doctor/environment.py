"""The environment variables that change results, and what each changes. Imports no torch."""

from collections.abc import Iterator, Mapping

from muse_bench.doctor.record import Fact
from muse_bench.predict.allocator_config import AllocatorConfig

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # the first that is set counts
ALLOCATOR_KEYS = {
    "expandable_segments": "segments grow in place: reserved is nearer to allocated",
    "max_split_size_mb": "large blocks are not split: other fragmentation, other reserved",
    "roundup_power2_divisions": "requests are rounded up: allocated and reserved grow",
    "garbage_collection_threshold": "cached blocks are given back early: reserved falls, steps may be slower",
    "backend": "another allocator has other figures, and no history to take a ledger from",
}
# Cases run without these but for `--workspace`; `kernels` and `quality` run with them.
WORKSPACE_VARIABLES = ("CUBLAS_WORKSPACE_CONFIG", "CUBLASLT_WORKSPACE_SIZE")
OTHER_VARIABLES = {
    "PYTORCH_NO_CUDA_MEMORY_CACHING": "nothing is cached: unset it, or reserved memory means nothing",
    "TORCH_CUBLASLT_UNIFIED_WORKSPACE": "it changes the workspace: unset it for PyTorch's default",
    "TORCH_CUBLAS_WORKSPACE_CACHE": "it changes the workspace: unset it for PyTorch's default",
    "TRITON_INTERPRET": "kernels are interpreted: unset it to run them on the GPU",
    "CUDA_LAUNCH_BLOCKING": "each launch waits for the GPU: step times are too long; unset it",
    "CUDA_MPS_PIPE_DIRECTORY": "under MPS the context is shared: the device's figure of a process may lack it",
}
EAGER_LOADING = "all kernels are loaded at the start: the context is larger than in the table of GPUs; unset it"


def environment_facts(variables: Mapping[str, str]) -> Iterator[Fact]:
    """A line for each of those that are set."""
    found = [*_allocator(variables), *_workspaces(variables), *_others(variables)]
    if visible := variables.get("CUDA_VISIBLE_DEVICES"):
        found.append(Fact("CUDA_VISIBLE_DEVICES", "ok", f"{visible}: the first of them is measured"))
    yield from found or [Fact("environment", "ok", "no variable that changes results is set")]


def _allocator(variables: Mapping[str, str]) -> Iterator[Fact]:
    names = [name for name in ALLOCATOR_VARIABLES if variables.get(name)]
    for name in names:
        setting = variables[name]
        if name != names[0]:
            yield Fact(name, "warning", setting, f"{names[0]} counts in its place: unset one of them")
            continue
        try:
            AllocatorConfig.from_environment_string(setting)
        except ValueError as error:
            yield Fact(name, "warning", f"{setting}: {error}", "unset it to predict")
        else:
            yield Fact(name, "warning", _meaning(setting), "unset it for PyTorch's default")


def _meaning(setting: str) -> str:
    """The setting, with what it changes in the figures."""
    keys = [item.partition(":")[0].strip() for item in setting.split(",")]
    changes = [ALLOCATOR_KEYS.get(key, "reserved changes") for key in keys if key]
    return f"{setting}: {'; '.join(dict.fromkeys(changes))}"


def _workspaces(variables: Mapping[str, str]) -> Iterator[Fact]:
    for name in WORKSPACE_VARIABLES:
        if variables.get(name):
            advice = "cases ignore it, --workspace says; kernels and quality run with it"
            yield Fact(name, "warning", variables[name], advice)


def _others(variables: Mapping[str, str]) -> Iterator[Fact]:
    for name, advice in OTHER_VARIABLES.items():
        if variables.get(name, "0") not in ("", "0"):
            yield Fact(name, "warning", variables[name], advice)
    if variables.get("CUDA_MODULE_LOADING", "").upper() == "EAGER":
        yield Fact("CUDA_MODULE_LOADING", "warning", variables["CUDA_MODULE_LOADING"], EAGER_LOADING)
