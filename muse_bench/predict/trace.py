"""Runs a workload on `meta` tensors, with no GPU, and writes down the allocations that CUDA would make."""

import contextlib
import itertools
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from muse_bench import scopes
from muse_bench.autocast import meta_autocast
from muse_bench.config import WORKSPACE_ENVIRONMENT, Case
from muse_bench.errors import DtypesDiffer, HostMemoryShort, UsageError
from muse_bench.observe import Observer, observe
from muse_bench.predict import rules, values
from muse_bench.predict.gpus import Gpu, cublas_workspace_bytes, cublaslt_workspace_bytes, libraries_bytes
from muse_bench.predict.meta_cache import MetaCache
from muse_bench.predict.untraceable import explain
from muse_bench.sharding.streams import current_stream
from muse_bench.stored import held
from muse_bench.timeline import Event, Label, Trace
from muse_bench.workload import DTYPES, Build, Workload, build_workload

WORKSPACE = Label("workspace", "(libraries)")


class MetaObserver(Observer):
    """Watches the storages of `meta` tensors: a storage that appears is an allocation, one that dies a free."""

    def __init__(self, gpu: Gpu, environment: Mapping[str, str], release: tuple[int, int]) -> None:
        super().__init__()
        self._gpu = gpu
        self._cache = MetaCache()
        self._keys = itertools.count()
        self._live: dict[int, int] = {}
        self._watches: dict[int, weakref.ref[Any]] = {}
        self._handles: set[tuple[str, bool]] = set()  # (library, whether backward's thread has it)
        capability, config = gpu.compute_capability, environment.get("CUBLAS_WORKSPACE_CONFIG")
        self._workspace_config = config
        self._workspace_bytes = {
            "cublas": cublas_workspace_bytes(capability, config, release),
            "cublaslt": cublaslt_workspace_bytes(capability, environment, release),
        }

    def run_op(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        name = func.overloadpacket.__name__
        if name == "copy_" and scopes.current() == scopes.COMMUNICATION and not args[0].is_meta:
            out = args[0]  # what another rank would send is what this one sent to it
        elif name in rules.LOOKS_AT_CONTENTS:
            out = values.answer(func, args, kwargs, name)
        else:
            run: Callable[[Any, Any, dict[str, Any]], Any] = rules.RESULTS.get(name, self._cache.run)
            out = run(func, args, kwargs)
            values.follow(func, args, kwargs, out)
        for place, leaf in enumerate(out if isinstance(out, list | tuple) else (out,)):
            if place in rules.ABSENT_OUTPUTS.get(name, ()):
                continue
            for tensor in (leaf,) if isinstance(leaf, Tensor) else leaf if isinstance(leaf, list | tuple) else ():
                self._track(tensor)
        if name in rules.PRODUCTS:
            self._use_library("cublas")
            if rules.runs_on_cublaslt(name, args):
                self._use_library("cublaslt")
        if name in rules.CUDNN_ATTENTION:
            self._use_library("cudnn")
        temporaries = rules.TEMPORARIES.get(name)
        if temporaries is not None:
            keys = [self._alloc(size) for size in temporaries(args, kwargs, self._gpu)]
            for key in keys:
                self._free(key)
        return out

    def label(self, tensor: Tensor, label: Label) -> None:
        """Names the storage of a tensor, if it is one of this run's."""
        tensor = held(tensor)
        if tensor.device.type == "meta":
            self._track(tensor)
            key = self._live.get(tensor.untyped_storage()._cdata)
            if key is not None:
                self.trace.labels[key] = label

    def _track(self, tensor: Tensor) -> None:
        tensor = held(tensor)
        if tensor.device.type != "meta":
            return
        storage = tensor.untyped_storage()
        identity = storage._cdata
        if identity in self._live or storage.nbytes() == 0:
            return
        key = self._live[identity] = self._alloc(storage.nbytes())
        self._watches[key] = weakref.ref(storage, lambda _: self._died(identity, key))

    def resized(self, tensor: Tensor) -> None:
        """A storage that is emptied gives its memory back; one that is filled takes some."""
        identity = tensor.untyped_storage()._cdata
        if tensor.untyped_storage().nbytes():
            self._track(tensor)
        elif identity in self._live:
            key = self._live[identity]
            self._watches.pop(key)
            del self._live[identity]
            self._free(key)

    def _died(self, identity: int, key: int) -> None:
        del self._live[identity], self._watches[key]
        self._free(key)

    def _alloc(self, size_bytes: int) -> int:
        key = next(self._keys)
        self.trace.events.append(Event(True, key, size_bytes, len(self.trace.ops) - 1, current_stream()))
        return key

    def _free(self, key: int) -> None:
        self.trace.events.append(Event(False, key, 0, len(self.trace.ops) - 1))

    def _use_library(self, library: str) -> None:
        """Each thread has a handle of its own, and a workspace for it: the caller's, and the one that runs backward."""
        handle = (library, torch._C._current_graph_task_id() != -1)
        if handle in self._handles:
            return
        self._handles.add(handle)
        size = self._workspace_bytes.get(library, 0)
        if size:
            self.trace.labels[self._alloc(size)] = WORKSPACE

    def libraries_bytes(self) -> int:
        """What the libraries used take outside the allocator."""
        used = [library for library, _ in self._handles]
        return libraries_bytes(
            self._gpu.compute_capability, used.count("cublas"), used.count("cudnn"), self._workspace_config
        )


def trace_case(case: Case, gpu: Gpu, on_phase: Any = None, build: Build = build_workload) -> tuple[Trace, Workload]:
    """Traces the case's first steps as they would run on the GPU.

    Raises: UntraceableModel for a model that needs a GPU to run, UsageError for a factory that fails; DtypesDiffer,
        HostMemoryShort and torch.OutOfMemoryError as they are.
    """
    major, minor = torch.__version__.split(".")[:2]
    observer = MetaObserver(gpu, WORKSPACE_ENVIRONMENT[case.workspace], (int(major), int(minor)))
    with rules.cuda_paths(gpu.compute_capability), meta_autocast(case.autocast and DTYPES[case.autocast]):
        # The models of this project index by slices; a function mode would only cost them time.
        indices = values.KeepIndices() if case.config is None else contextlib.nullcontext()
        try:
            with indices:
                work = observe(case, torch.device("meta"), observer, case.traced_steps, on_phase, build)
        except (UsageError, DtypesDiffer, HostMemoryShort, torch.OutOfMemoryError):
            raise  # these say by themselves what is wrong
        except Exception as error:
            if "Storage size calculation overflowed" in str(error):
                sizes = str(error).partition("sizes=")[2].split("]")[0].lstrip("[")
                raise UsageError(f"the sizes overflow: a tensor of {sizes} is more than memory can count") from error
            operation = observer.trace.ops[-1].name if observer.trace.ops else "building it"
            raise explain(error, operation) from error
    observer.trace.libraries_bytes = observer.libraries_bytes()
    return observer.trace, work
