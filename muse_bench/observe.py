"""Watches a workload run: which operation of which module is running, and which tensors are what.

The same observer serves prediction and measurement; a subclass decides what an operation's tensors mean.
"""

import bisect
import contextlib
import functools
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module
from torch.utils._python_dispatch import TorchDispatchMode

from muse_bench import scopes
from muse_bench.config import Case
from muse_bench.models.language_model import LanguageModel
from muse_bench.parts import ROOT, Parts, owner
from muse_bench.places import places_of
from muse_bench.sharding.settling import settle
from muse_bench.stored import stored
from muse_bench.streaming.accelerated import arrivals
from muse_bench.timeline import Label, Op, Trace
from muse_bench.workload import Build, Workload, build_workload

ADD = torch.ops.aten.add.Tensor
WRAPPERS = ("DTensor", "AsyncCollectiveTensor")  # of torch.distributed: tensors around those that this rank holds


class Observer(TorchDispatchMode):
    """Keeps the operations of a run with their module and phase. Subclasses implement `label` and the op hooks."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = Trace()
        self.phase = "build"
        self._phase_before = "build"
        self._sole_owner_counts = SoleOwnerProbe.counts() if type(self) is not SoleOwnerProbe else (0, 0)
        self._names: dict[int, str] = {}
        self._parts = Parts()
        self._lent = False  # whether weights take turns in memory that has to be named while they are there
        # By thread: the sequence numbers of autograd nodes at which the module changed in this step, and its names.
        self._boundaries: dict[int, tuple[list[int], list[str]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(kind.__name__ in WRAPPERS for kind in types):
            return NotImplemented  # it then comes here with the tensors inside
        self.begin_op(_op_name(func))
        if func is ADD and torch._C._current_graph_task_id() != -1 and not kwargs and self._is_sole_owner(args[0]):
            return args[0].add_(args[1])
        return self.run_op(func, args, kwargs or {})

    def _is_sole_owner(self, gradient: Tensor) -> bool:
        """Whether nobody but autograd's sum of gradients holds this one.

        Autograd then adds in place, except under a dispatch mode, such as this; so the observer does it instead.
        Source: can_accumulate_inplace in torch/csrc/autograd/input_buffer.cpp.
        """
        storage = gradient.untyped_storage()
        dense = gradient.numel() * gradient.element_size() == storage.nbytes()
        counts = (_tensor_count(gradient), torch._C._storage_Use_Count(storage._cdata))
        return dense and counts == self._sole_owner_counts

    def run_op(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Runs one operation; subclasses look at its tensors here."""
        return func(*args, **kwargs)

    def label(self, tensor: Tensor, label: Label) -> None:
        """Says what the memory of a tensor is."""
        raise NotImplementedError

    def resized(self, tensor: Tensor) -> None:
        """Hears that a tensor's storage was emptied or filled, by no operation."""

    @contextlib.contextmanager
    def resizing(self, tensor: Tensor, what: str) -> Iterator[None]:
        """Inside, a tensor's storage is emptied or filled."""
        self.begin_op(what)
        yield
        self.resized(tensor)

    def begin_op(self, name: str) -> int:
        """Notes that an operation begins; returns its index."""
        in_backward = torch._C._current_graph_task_id() != -1
        phase = "backward" if in_backward and self.phase == "forward" else self.phase
        self.trace.ops.append(Op(name, self._module(in_backward), phase))
        return len(self.trace.ops) - 1

    def begin_step(self) -> None:
        """Marks the beginning of a step."""
        self.phase = "forward"
        self._boundaries.clear()
        self.trace.steps.append(self.begin_op("step"))

    @contextlib.contextmanager
    def watching(self, work: Workload) -> Iterator[None]:
        """Labels the workload's tensors, and follows its modules, gradients and optimizer while it runs."""
        self._names = {id(module): name or ROOT for name, module in work.model.named_modules()}
        self._parts = Parts(work.model, work.optimizer)
        self._lent = isinstance(work.model, LanguageModel) and work.model.config.weights == "host"
        self._label_owned(work)
        handles = [
            nn_module.register_module_forward_pre_hook(self._enter),
            nn_module.register_module_forward_hook(self._leave, always_call=True),
            *self._gradient_hooks(),
        ]
        if work.optimizer is not None:
            handles.append(work.optimizer.register_step_pre_hook(lambda one, *_: self._before_optimizer(one)))
            handles.append(work.optimizer.register_step_post_hook(lambda one, *_: self._after_optimizer(one)))
        sharded = _collectives(work, self) if work.case.sharding is not None else contextlib.nullcontext()
        with scopes.listening(self._mark_boundary), arrivals(work.model, self._label_arrived), sharded:
            try:
                yield
            finally:
                for handle in handles:
                    handle.remove()

    def _module(self, in_backward: bool) -> str:
        name = scopes.current()
        if name or not in_backward:
            return name
        node = torch._C._current_autograd_node()
        number = getattr(node, "_sequence_nr", lambda: None)() if node is not None else None
        return "" if number is None else self._module_of_node(number)

    def _module_of_node(self, number: int) -> str:
        """The module whose forward made the node. On CUDA the nodes of a recomputation are numbered apart, by the
        autograd thread: the thread that asks is looked up first."""
        here = threading.get_ident()
        for thread in sorted(self._boundaries, key=lambda thread: thread != here):
            numbers, names = self._boundaries[thread]
            place = bisect.bisect_right(numbers, number)
            if place and names[place - 1]:
                return names[place - 1]
        return ""

    def _mark_boundary(self, name: str) -> None:
        numbers, names = self._boundaries.setdefault(threading.get_ident(), ([], []))
        numbers.append(torch._C._autograd._get_sequence_nr())
        names.append(name)

    def _enter(self, module: nn.Module, args: Any) -> None:
        name = self._names.get(id(module), scopes.current())
        scopes.enter(name)
        if self._lent:
            self._label_parameters((parameter, name) for parameter in module.parameters(recurse=False))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        scopes.leave()

    def _label_owned(self, work: Workload) -> None:
        for name, buffer in work.model.named_buffers():
            self.label(buffer, Label("buffers", owner(name)))
        self._label_parameters(self._parts.all_parameters())  # some of which are stored in buffers
        for tensor in work.inputs:
            self.label(tensor, Label("inputs", "(inputs)"))

    def _label_parameters(self, owned: Iterable[tuple[Tensor, str]]) -> None:
        for parameter, name in owned:
            for tensor in {parameter, *stored(parameter)}:
                self.label(tensor, Label("parameters", name))

    def _label_arrived(self, module: nn.Module) -> None:
        owner = self._names.get(id(module), scopes.current())
        for name, parameter in module.named_parameters():
            if not parameter.is_meta:
                self._label_parameters([(parameter, ".".join(filter(None, (owner, name.rpartition(".")[0]))))])

    def _gradient_hooks(self) -> list[Any]:
        def hook(parameter: Tensor, name: str) -> None:
            if parameter.grad is not None:
                self.label(parameter.grad, Label("gradients", name))

        return [
            parameter.register_post_accumulate_grad_hook(lambda p, name=name: hook(p, name))
            for parameter, name in self._parts.all_parameters()
            if parameter.requires_grad
        ]

    def _before_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        self._parts.update(optimizer)
        if self._lent:  # to all of a part at a time
            self._label_parameters(self._parts.parameters())
        self._phase_before, self.phase = self.phase, "optimizer"
        scopes.enter("(optimizer)")

    def _after_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        scopes.leave()
        if torch._C._current_graph_task_id() != -1:  # an update in the middle of backward
            self.phase = self._phase_before
        self._label_state(optimizer, self._parts.updated())

    def label_state(self, optimizer: torch.optim.Optimizer) -> None:
        """Names the state and the gradients that there are before anything has run."""
        self._label_state(optimizer, self._parts.all_parameters())
        for parameter, name in self._parts.all_parameters():
            if parameter.grad is not None:
                self.label(parameter.grad, Label("gradients", name))

    def _label_state(self, optimizer: torch.optim.Optimizer, owned: Iterable[tuple[Tensor, str]]) -> None:
        for parameter, name in owned:
            for value in optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor):
                    self.label(value, Label("optimizer_state", name))


def _collectives(work: Workload, observer: Observer) -> contextlib.AbstractContextManager[None]:
    from muse_bench.sharding.naming import collectives_named

    def name(tensor: Tensor, category: str, module: str) -> None:
        observer.label(tensor, Label(category, module))

    return collectives_named(work.model, name, observer.resizing)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What torch.nn.functional.linear does when no dispatch mode watches: it then adds the bias in place.

    Source: linear in aten/src/ATen/native/Linear.cpp.
    """
    if bias is None:
        return torch.matmul(x, weight.t())
    if x.dim() == 2:
        return torch.addmm(bias, x, weight.t())
    if x.dim() == 3 and x.is_contiguous():
        return torch.addmm(bias, x.reshape(-1, x.shape[-1]), weight.t()).view(*x.shape[:-1], weight.shape[0])
    return torch.matmul(x, weight.t()).add_(bias)


@contextlib.contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Inside, composite operations that look for dispatch modes act as if there were none."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("linear", linear, f"Autograd{device.type.upper() if device.type != 'meta' else 'Meta'}")
    try:
        yield
    finally:
        library._destroy()


class SoleOwnerProbe(Observer):
    """Finds the reference counts that a gradient held by autograd alone shows to an observer in this PyTorch."""

    def _is_sole_owner(self, gradient: Tensor) -> bool:
        self._sole_owner_counts = (
            _tensor_count(gradient),
            torch._C._storage_Use_Count(gradient.untyped_storage()._cdata),
        )
        return False

    @classmethod
    @functools.cache
    def counts(cls) -> tuple[int, int]:
        """(of the tensor, of its storage), from one backward in which two gradients of one tensor meet."""
        probe = cls()
        x = torch.ones(2, requires_grad=True)
        hidden = x.exp()
        with probe:
            (hidden.sin() + hidden.cos()).sum().backward()
        return probe._sole_owner_counts


def _tensor_count(tensor: Tensor) -> int:
    count: int = tensor._use_count()  # type: ignore[attr-defined]
    return count


@functools.cache
def _op_name(func: Any) -> str:
    return str(func)


def observe(
    case: Case,
    device: torch.device,
    observer: Observer,
    steps: int,
    on_phase: Any = None,
    build: Build = build_workload,
) -> Workload:
    """Builds the case's workload and runs its first steps under the observer; returns the workload."""
    say = on_phase or (lambda _: None)
    with observer, undisturbed(device):
        say("building")
        work = build(replace(case, execution="eager"), device)  # what a graph replays cannot be watched
        with observer.watching(work):
            for step in range(steps):
                if step == steps - 1:
                    settle(case)
                say(f"step {step + 1} of {steps}")
                observer.begin_step()
                work.step()
    observer.trace.places = places_of(work.model)
    return work
