"""Predicts and measures, in this process, what a caller has in hand. Names go to the runner and its processes."""

import contextlib
import dataclasses
import gc
import os
from collections.abc import Iterator
from typing import Any

import torch

from muse_bench.config import Case
from muse_bench.errors import UsageError
from muse_bench.execution.blank import blank_record
from muse_bench.execution.fill import closed, explained, predicted, with_device
from muse_bench.execution.prediction import predicted_values
from muse_bench.execution.settings import allocator_config
from muse_bench.measure.cuda import measure_peaks
from muse_bench.measure.history import HistoryObserver, finish, live_blocks, record_case, recorded_history
from muse_bench.measure.nvml import NvmlSampler
from muse_bench.models.given import Given, build_given
from muse_bench.places import places_of
from muse_bench.predict.gpus import Gpu
from muse_bench.record import Record
from muse_bench.step import Step
from muse_bench.timeline import profile
from muse_bench.workload import DTYPES, Workload, build_workload, default_dtype

NAMES = {dtype: name for name, dtype in DTYPES.items()}


def predict_here(case: Case, given: Given, gpu: Gpu, *, casts: bool) -> Record:
    """The prediction of the case for what was given; with `casts` the model is brought into the case's dtype.

    Raises: UntraceableModel for a step that needs a GPU to run, UsageError for what cannot be built.
    """
    case = dataclasses.replace(case, gpu=gpu.name)
    record = blank_record(case, "predicted", gpu.title)
    with torch.random.fork_rng(devices=()):
        values, work = predicted_values(case, _ignore, build=lambda case, device: _build(case, given, device, casts))
    return _of_model(predicted(record, case, values, gpu), work)


def measure_here(case: Case, given: Given, *, casts: bool) -> Record:
    """The same measured on this process's CUDA device, less what the process held there before.

    A Step lies on the device already, so what was there before counts with it.
    Raises: UsageError where there is no GPU; torch.cuda.OutOfMemoryError when it does not fit.
    """
    device = cuda_device("measure", "predict")
    _forget()
    own = isinstance(given, Step)
    allocated, reserved = (0, 0) if own else (torch.cuda.memory_allocated(), torch.cuda.memory_reserved())
    record = blank_record(case, "measured", torch.cuda.get_device_name(device))
    with torch.random.fork_rng(devices=[device]):
        with NvmlSampler(device.index, os.getpid()) as sampler:
            work = _build(case, given, device, casts)
            peaks = dataclasses.asdict(measure_peaks(work, _ignore, lambda: None))
            view = sampler.stop()
        peaks["peak_allocated_bytes"] -= allocated
        peaks["cold_peak_allocated_bytes"] -= allocated
        peaks["peak_reserved_bytes"] -= reserved
        if view.process_peak_bytes is not None:
            view = dataclasses.replace(view, process_peak_bytes=view.process_peak_bytes - reserved)
        record = _of_model(with_device(dataclasses.replace(record, **peaks), view), work)
        del work
        if not own:
            _forget()  # the history begins with the workspaces that the case takes
        trace = record_case(case, _ignore, lambda case, device: _build(case, given, device, casts), keeps_earlier=own)
    values = dataclasses.asdict(profile(trace, first_steady_step=case.first_steady_step, config=allocator_config()))
    return closed(explained(record, values))


def cuda_device(what: str, instead: str) -> torch.device:
    """This process's CUDA device. Raises: UsageError that names what to use instead."""
    if not torch.cuda.is_available():
        raise UsageError(f"{what} needs a CUDA GPU, and there is none here: use muse_bench.{instead}")
    return torch.device("cuda", torch.cuda.current_device())


class LoopObserver(HistoryObserver):
    """Follows a loop of someone's own: each step of the optimizer ends a step."""

    def _after_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        super()._after_optimizer(optimizer)
        self.begin_step()


@contextlib.contextmanager
def watched(case: Case, step: Step | None) -> Iterator[list[Record]]:
    """Inside, this process's peaks on its CUDA device are watched; the list has their record afterwards.

    With a step, of which all but the function counts, there is a ledger.
    Raises: UsageError where there is no GPU.
    """
    device = cuda_device("watch", "predict")
    found: list[Record] = []
    record = blank_record(case, "measured", torch.cuda.get_device_name(device))
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    with contextlib.ExitStack() as inside:
        sampler = inside.enter_context(NvmlSampler(device.index, os.getpid()))
        values = inside.enter_context(_explained(case, step, device)) if step is not None else {}
        yield found
        torch.cuda.synchronize()
        view = sampler.stop()
        record = dataclasses.replace(
            record,
            peak_allocated_bytes=torch.cuda.max_memory_allocated(),
            peak_reserved_bytes=torch.cuda.max_memory_reserved(),
        )
    record = with_device(record, view)
    if step is not None:
        record = closed(explained(_of_model(record, build_workload(case, device, step)), values))
    found.append(record)


@contextlib.contextmanager
def _explained(case: Case, step: Step, device: torch.device) -> Iterator[dict[str, Any]]:
    """Inside, the loop is observed; the values of its profile are there afterwards."""
    from muse_bench.observe import undisturbed

    values: dict[str, Any] = {}
    observer = LoopObserver()
    work = build_workload(case, device, step)
    with recorded_history():
        earlier = live_blocks()
        with observer, undisturbed(device):
            observer.begin_op("what was there before")
            with observer.watching(work):
                if step.optimizer is not None:
                    observer.label_state(step.optimizer)
                observer.begin_step()
                yield values
        torch.cuda.synchronize()
        trace = finish(observer, work, earlier)
        trace.places = places_of(work.model)
    values.update(dataclasses.asdict(profile(trace, first_steady_step=0, config=allocator_config())))


def _build(case: Case, given: Given, device: torch.device, casts: bool) -> Workload:
    torch.manual_seed(case.seed)
    with default_dtype(DTYPES[case.dtype]) if casts else contextlib.nullcontext():
        built = build_given(given, device, DTYPES[case.dtype] if casts else None)
    return build_workload(case, device, built)


def _of_model(record: Record, work: Workload) -> Record:
    """The record, with what it says of a case's model taken from the model itself."""
    kinds = [parameter.dtype for parameter in work.model.parameters() if parameter.is_floating_point()]
    dtype = NAMES.get(kinds[0], str(kinds[0]).removeprefix("torch.")) if kinds else record.dtype
    return dataclasses.replace(record, dtype=dtype, parameters=work.parameters)


def _forget() -> None:
    """Gives back what nothing but caches holds: blocks, and the workspaces of cuBLAS that an earlier case took."""
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()


def _ignore(_: str) -> None:
    """Nobody waits for the phases of a run in this process."""
