"""From what was seen of a machine to what it means: a fact a line, with what to do about it. Imports no torch."""

from collections.abc import Iterator

from muse_bench.doctor.environment import environment_facts
from muse_bench.doctor.host import host_facts
from muse_bench.doctor.machine import Machine
from muse_bench.doctor.record import Fact
from muse_bench.errors import UsageError
from muse_bench.measure.driver import Driver
from muse_bench.measure.nvml_device import NOT_INSTALLED
from muse_bench.predict.gpus import find_gpu
from muse_bench.units import format_bytes

OLDEST_TORCH = (2, 11)
OLDEST_CAPABILITY = (7, 0)  # that Triton compiles for
RESTARTED = "mismatch"  # of what NVML says when its library and the running kernel module differ


def summary(machine: Machine, main_job: Fact) -> str:
    """What this machine can do, in a line."""
    if machine.worker_failure is not None:
        return f"This machine can neither measure nor predict: {machine.worker_failure}"
    if main_job.state == "failed":
        return f"On this machine {main_job.found}"
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
        _driver(machine),
        *_mig(machine.driver),
        *_gpu(machine),
        *host_facts(machine.host, machine.link, machine.view if machine.measures else None),
        *environment_facts(machine.variables),
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
    if machine.software.get("cuda") is None and machine.driver.title is not None:
        return Fact(
            "CUDA", "missing", found, f"install a build of torch with CUDA to measure on the {machine.driver.title}"
        )
    if machine.driver.title is not None:
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
    reason = machine.driver.unavailable
    if reason is None:
        return Fact("NVML", "ok", "starts and answers")
    if reason == NOT_INSTALLED:
        return Fact("NVML", "missing", reason, "install nvidia-ml-py")
    if RESTARTED in reason and not machine.measures:
        return Fact("NVML", "failed", reason, "restart the machine: the driver was updated while it ran")
    return Fact("NVML", "missing", reason, "install NVIDIA's driver where there is a GPU")


def _driver(machine: Machine) -> Fact:
    """Within one major version of CUDA any driver runs any build; an older major needs another of either."""
    driver, built = machine.driver, machine.software.get("cuda")
    if driver.version is None:
        return Fact("driver", "missing", "unknown without NVML")
    if driver.cuda is None:
        return Fact("driver", "ok", driver.version)
    found = f"{driver.version}, for CUDA up to {driver.cuda[0]}.{driver.cuda[1]}"
    if built is None:
        return Fact("driver", "ok", found)
    found += f"; torch has {built}"
    if machine.measures or driver.title is None or driver.cuda[0] >= _release(str(built))[0]:
        return Fact("driver", "ok", found)
    advice = f"update the driver, or install a build of torch for CUDA {driver.cuda[0]}"
    return Fact("driver", "failed", f"{found}: the driver is too old", advice)


def _mig(driver: Driver) -> Iterator[Fact]:
    """Nothing of a GPU that has no such mode."""
    if driver.is_mig is None:
        return
    if not driver.is_mig:
        yield Fact("MIG", "ok", "off: the whole GPU is measured")
    elif not driver.instances:
        yield Fact("MIG", "failed", "on, with no instance to run on", "make one: nvidia-smi mig -cgi PROFILE -C")
    else:
        parts = "; ".join(f"{one.title}, {format_bytes(one.total_bytes)}, {one.uuid}" for one in driver.instances)
        advice = "figures and verdicts are of that part; CUDA_VISIBLE_DEVICES chooses another by its uuid"
        yield Fact("MIG", "warning", f"on, the first of {len(driver.instances)} is measured: {parts}", advice)


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
    """A GPU that is here and stays idle is broken: commands would predict where measuring was meant."""
    driver = machine.driver
    if driver.title is None:
        return Fact("GPU", "missing", driver.title_unavailable or "none is seen")
    advice = 'see CUDA; CUDA_VISIBLE_DEVICES="" hides it where predictions are meant'
    return Fact("GPU", "failed", f"{driver.title}, which torch cannot use", advice)


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
    reason = (view.unavailable_reason if view is not None else None) or machine.driver.unavailable or "NVML is silent"
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


def _release(version: str) -> tuple[int, int]:
    """Major and minor of a version such as '2.13.0+cpu'."""
    numbers = [int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit()]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)
