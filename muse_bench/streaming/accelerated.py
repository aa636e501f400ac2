"""A peer's engine: weights that accelerate keeps in host memory, and copies to the device for each module's forward.

Its hooks go on every module with parameters of its own, as they do by default, so that a layer's weights are on the
device while that layer runs. Modules that use those of the modules inside them are named to it. A copy waits until it
is done, and the allocator's cache is emptied before the next: accelerate has no option for either. What it can be
given is the state dict: this one lies in pinned memory, which the device reads at the full rate of the link.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from muse_bench.streaming import traffic
from muse_bench.streaming.memory import ANY_ROOM, HostMemory, HostRoom
from muse_bench.streaming.peer import check_accelerate


class AcceleratedWeights:
    """The parameters of a model, with values in host memory; parts give theirs up one by one, then accelerate has all.

    Raises: UsageError on `meta`, where nothing can be copied, and without accelerate; HostMemoryShort.
    """

    def __init__(self, sizes: Sequence[int], device: torch.device, room: HostRoom = ANY_ROOM) -> None:
        """A place in this room for parameters of these sizes in bytes."""
        check_accelerate(copies=device.type != "meta")
        self.device, self._size_bytes = device, sum(sizes)
        self._memory = HostMemory(device, folder=room.folder, total_bytes=room.total_bytes)
        self._memory.reserve(sizes)

    def take_over(self, part: nn.Module) -> None:
        """The part's parameters lie in host memory from here on."""
        for parameter in part.parameters():
            value = self._memory.take(parameter.nbytes).view(parameter.dtype).view(parameter.shape)
            parameter.data = value.copy_(parameter.detach())

    def offload(self, model: nn.Module, whole: Sequence[type[nn.Module]]) -> None:
        """Has accelerate copy the model's weights; modules of the classes in `whole` read those of modules inside."""
        values = _Asked({name: parameter.detach() for name, parameter in model.named_parameters()})
        names = [kind.__name__ for kind in whole]
        accelerate = importlib.import_module("accelerate")
        accelerate.cpu_offload(model, self.device, state_dict=values, preload_module_classes=names)

    @contextlib.contextmanager
    def at_hand(self, module: nn.Module) -> Iterator[None]:
        """The module's weights are on the device as in its forward, for what uses them elsewhere."""
        hook: Any = module._hf_hook
        hook.pre_forward(module)
        try:
            yield
        finally:
            hook.post_forward(module, None)

    def host_bytes(self) -> dict[str, int]:
        """What lies in host memory."""
        return {"weights": self._size_bytes}


class _Asked(Mapping[str, Tensor]):
    """Weights by name; whoever asks for one copies it to the device."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> Tensor:
        value = self._values[name]
        traffic.to_device(value.nbytes)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@contextlib.contextmanager
def arrivals(model: nn.Module, seen: Callable[[nn.Module], None]) -> Iterator[None]:
    """Calls `seen` with each module whose weights accelerate has just copied to the device."""
    found = (getattr(module, "_hf_hook", None) for module in model.modules())
    hooks = list({id(hook): hook for hook in found if hook is not None}.values())
    for hook in hooks:
        hook.pre_forward = _telling(hook.pre_forward, seen)
    try:
        yield
    finally:
        for hook in hooks:
            del hook.pre_forward  # that of its class is there again


def _telling(pre_forward: Callable[..., Any], seen: Callable[[nn.Module], None]) -> Callable[..., Any]:
    def told(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = pre_forward(module, *args, **kwargs)
        seen(module)
        return result

    return told


def sizes_of(parts: Iterable[nn.Module]) -> list[int]:
    """The sizes in bytes of the parameters of these parts."""
    return [parameter.nbytes for part in parts for parameter in part.parameters()]
