"""From what was seen of a machine to what it means: a fact a line, with what to do about it. Imports no torch."""

from collections.abc import Iterator

from muse_bench.doctor.machine import Machine
from muse_bench.doctor.record import Fact
from muse_bench.errors import UsageError
from muse_bench.measure.nvml_device import NOT_INSTALLED
from muse_bench.predict.allocator_config import AllocatorConfig
from muse_bench.predict.gpus import find_gpu
from muse_bench.units import format_bytes

OLDEST_TORCH = (2, 11)
OLDEST_CAPABILITY = (7, 0)  # that Triton compiles for
ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
# Cases run without these but for `--workspace`; `kernels` and `quality` run with them.
WORKSPACE_VARIABLES = ("CUBLAS_WORKSPACE_CONFIG", "CUBLASLT_WORKSPACE_SIZE")
OTHER_VARIABLES = {
    "PYTORCH_NO_CUDA_MEMORY_CACHING": "nothing is cached: unset it, or reserved memory means nothing",
    "TORCH_CUBLASLT_UNIFIED_WORKSPACE": "it changes the workspace: unset it for PyTorch's default",
    "TORCH_CUBLAS_WORKSPACE_CACHE": "it changes the workspace: unset it for PyTorch's default",
    "TRITON_INTERPRET": "kernels are interpreted: unset it to run them on the GPU",
}


def summary(machine: Machine) -> str:
    """What this machine can do, in a line."""
    if machine.worker_failure is not None:
        return f"This machine can neither measure nor predict: {machine.worker_failure}"
    if machine.gpu is not None:
        return f"This machine can measure, on {machine.gpu['gpu']}, and predict"
    return f"This machine can predict, not measure: {machine.cuda_unavailable or machine.gpu_failure}"


def facts(machine: Machine) -> tuple[Fact, ...]:
    """Every line, from the software to the GPU to the environment."""
    return (
        Fact("Python", "ok", machine.python),
        _torch(machine),
        _cuda(machine),
        _triton(machine),
        _transformers(machine),
        _nvml(machine),
        *_gpu(machine),
        *_environment(machine),
    )


def self_check_fact(machine: Machine) -> Fact:
    """Why the kernels were not checked."""
    if machine.measures:
        return Fact("self-check", "missing", "the kernels' self-check needs Triton", "install triton")
    return Fact("self-check", "missing", "the kernels' self-check needs a CUDA GPU")


def _torch(machine: Machine) -> Fact:
    if machine.worker_failure is not None:
        return Fact("torch", "failed", machine.worker_failure, "install torch 2.11 or newer again")
    version = str(machine.software.get("torch"))
    if _release(version) < OLDEST_TORCH:
        return Fact("torch", "warning", version, "install 2.11 or newer")
    return Fact("torch", "ok", version)


def _cuda(machine: Machine) -> Fact:
    if machine.gpu_failure is not None:
        return Fact("CUDA", "failed", machine.gpu_failure, "match torch's CUDA with the driver and the GPU")
    if machine.gpu is not None:
        return Fact("CUDA", "ok", str(machine.software.get("cuda")))
    found = machine.cuda_unavailable or "unknown: torch does not start"
    if machine.software.get("cuda") is None and machine.title is not None:
        return Fact("CUDA", "missing", found, f"install a build of torch with CUDA to measure on the {machine.title}")
    if machine.title is not None:
        return Fact("CUDA", "missing", found, "look at CUDA_VISIBLE_DEVICES and the driver's age")
    return Fact("CUDA", "missing", found, "predict, with --gpu NAME")


def _triton(machine: Machine) -> Fact:
    version = machine.software.get("triton")
    if version is None:
        return Fact("Triton", "missing", "not installed", "install triton: the kernels run on it")
    if machine.triton_failure is not None:
        return Fact("Triton", "failed", machine.triton_failure, "install the triton that torch asks for")
    if machine.measures and machine.compiler is None:
        return Fact("Triton", "warning", f"{version}, no C compiler", "install gcc: Triton compiles its launchers")
    return Fact("Triton", "ok", str(version))


def _transformers(machine: Machine) -> Fact:
    if machine.transformers is None:
        return Fact("transformers", "missing", "not installed", "install the extra 'transformers' for calibrate")
    return Fact("transformers", "ok", machine.transformers)


def _nvml(machine: Machine) -> Fact:
    if machine.nvml_unavailable is None:
        return Fact("NVML", "ok", f"driver {machine.driver or 'unknown'}")
    if machine.nvml_unavailable == NOT_INSTALLED:
        return Fact("NVML", "missing", machine.nvml_unavailable, "install nvidia-ml-py")
    return Fact("NVML", "missing", machine.nvml_unavailable, "install NVIDIA's driver where there is a GPU")


def _gpu(machine: Machine) -> Iterator[Fact]:
    if machine.gpu is None:
        yield _unused_gpu(machine)
        return
    gpu = machine.gpu
    size = format_bytes(gpu["gpu_total_bytes"])
    found = f"{gpu['gpu']}, {size}, compute capability {gpu['compute_capability']}"
    if gpu["devices"] > 1:
        found += f"; the first of {gpu['devices']}"
    if _release(gpu["compute_capability"]) < OLDEST_CAPABILITY:
        yield Fact("GPU", "warning", found, "Triton needs compute capability 7.0")
    else:
        yield Fact("GPU", "ok", found)
    yield _table(str(gpu["gpu"]))
    yield _process_memory(machine)
    yield _others(machine)


def _unused_gpu(machine: Machine) -> Fact:
    if machine.title is None:
        return Fact("GPU", "missing", machine.title_unavailable or "none is seen")
    return Fact("GPU", "warning", f"{machine.title}, which torch cannot use", "see CUDA")


def _table(title: str) -> Fact:
    """Whether predictions know this GPU."""
    try:
        row = find_gpu(title)
    except UsageError:
        return Fact("context", "warning", "this GPU is not in the table of GPUs", "predict with --gpu and one like it")
    return Fact("context", "ok", f"{row.name}: {format_bytes(row.context_bytes)}, {row.context_source.split(':')[0]}")


def _process_memory(machine: Machine) -> Fact:
    view = machine.view
    if view is not None and view.process_peak_bytes is not None:
        found = f"NVML sees it: {format_bytes(view.process_peak_bytes)} for a small one"
        return Fact("process memory", "ok", found if view.note is None else f"{found}; {view.note}")
    reason = (view.unavailable_reason if view is not None else None) or machine.nvml_unavailable or "NVML is silent"
    return Fact("process memory", "missing", reason, "trust allocated and reserved; device stays empty")


def _others(machine: Machine) -> Fact:
    others = None if machine.view is None else machine.view.other_processes
    if others is None:
        return Fact("other processes", "missing", "NVML does not list them")
    if not others:
        return Fact("other processes", "ok", "none on the GPU")
    listed = [
        f"pid {one.pid} ({one.name or 'unknown'}) holds "
        + ("an unknown amount" if one.used_bytes is None else format_bytes(one.used_bytes))
        for one in others
    ]
    return Fact("other processes", "warning", "; ".join(listed), "stop them: they slow steps and take memory")


def _environment(machine: Machine) -> Iterator[Fact]:
    """The variables that change results, of those that are set."""
    found = [*_allocator(machine), *_workspaces(machine), *_others_set(machine)]
    yield from found or [Fact("environment", "ok", "no variable that changes results is set")]


def _allocator(machine: Machine) -> Iterator[Fact]:
    for name in ALLOCATOR_VARIABLES:
        setting = machine.variables.get(name)
        if setting:
            try:
                AllocatorConfig.from_environment_string(setting)
            except ValueError as error:
                yield Fact(name, "warning", f"{setting}: {error}", "unset it to predict")
            else:
                yield Fact(name, "warning", setting, "it changes reserved memory: unset it for PyTorch's default")


def _workspaces(machine: Machine) -> Iterator[Fact]:
    for name in WORKSPACE_VARIABLES:
        if machine.variables.get(name):
            advice = "cases ignore it, --workspace says; kernels and quality run with it"
            yield Fact(name, "warning", machine.variables[name], advice)


def _others_set(machine: Machine) -> Iterator[Fact]:
    for name, advice in OTHER_VARIABLES.items():
        if machine.variables.get(name, "0") != "0":
            yield Fact(name, "warning", machine.variables[name], advice)


def _release(version: str) -> tuple[int, int]:
    """Major and minor of a version such as '2.13.0+cpu'."""
    numbers = [int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit()]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)
