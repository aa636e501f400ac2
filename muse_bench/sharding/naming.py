"""Which memory belongs to collectives, and which to weights that they gather, while a sharded model is watched."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

from torch import Tensor, nn
from torch.distributed.fsdp._fully_shard import _fsdp_collectives, _fsdp_param, _fsdp_param_group
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import _disable_current_modes

from muse_bench import scopes
from muse_bench.parts import ROOT, owner

Name = Callable[[Tensor, str, str], None]  # a tensor, its category, its module
Resize = Callable[[Tensor, str], contextlib.AbstractContextManager[None]]  # what resizes its storage


@contextlib.contextmanager
def collectives_named(model: nn.Module, name: Name, resizing: Resize) -> Iterator[None]:
    """Inside, memory that FSDP2 and replicas take for collectives runs under its own scope; `name` hears of the rest.

    `resizing` surrounds the two functions in which FSDP2 takes memory for a gathered weight again, and gives it back.
    Source: torch/distributed/fsdp/_fully_shard, whose functions are private: a test runs this with each release.
    """
    modules = {id(module): path or ROOT for path, module in model.named_modules()}
    gather, gathered = _fsdp_collectives.foreach_all_gather, _fsdp_collectives.foreach_all_gather_copy_out
    reduce, alloc, free = _fsdp_collectives.foreach_reduce, _fsdp_param.alloc_storage, _fsdp_param.free_storage
    look = ShardingPropagator._propagate_tensor_meta_non_cached
    before_forward: Callable[..., Any] = DistributedDataParallel._pre_forward

    def all_gather(*args: Any, **kwargs: Any) -> Any:
        with scopes.scope(scopes.COMMUNICATION):
            return gather(*args, **kwargs)

    def copy_out(result: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        with scopes.scope(scopes.COMMUNICATION):
            found = gathered(result, params, *args, **kwargs)
        for param in params:
            for tensor in param.all_gather_outputs:
                name(tensor, "parameters", _owner(param, modules))
        return found

    def reduce_scatter(params: Any, gradients: Any, *args: Any, **kwargs: Any) -> Any:
        for place, param in enumerate(params):
            name(gradients[place], "gradients", _owner(param, modules))
        with scopes.scope(scopes.COMMUNICATION):
            found = reduce(params, gradients, *args, **kwargs)
        for param in params:
            if param.sharded_param.grad is not None:
                name(param.sharded_param.grad, "gradients", _owner(param, modules))
        return found

    def unwatched(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _disable_current_modes():  # DTensor asks what a result looks like, of tensors that are nowhere
            return look(self, *args, **kwargs)

    def take(tensor: Tensor) -> None:
        with resizing(tensor, "take"):
            alloc(tensor)

    def give_back(tensor: Tensor) -> None:
        with resizing(tensor, "give back"):
            free(tensor)

    def pre_forward(*args: Any, **kwargs: Any) -> Any:
        with scopes.scope(scopes.COMMUNICATION):
            return before_forward(*args, **kwargs)

    with (
        mock.patch.object(_fsdp_param_group, "foreach_all_gather", all_gather),
        mock.patch.object(_fsdp_param_group, "foreach_all_gather_copy_out", copy_out),
        mock.patch.object(_fsdp_param_group, "foreach_reduce", reduce_scatter),
        mock.patch.object(_fsdp_param, "alloc_storage", take),
        mock.patch.object(_fsdp_param_group, "alloc_storage", take),
        mock.patch.object(_fsdp_param, "free_storage", give_back),
        mock.patch.object(ShardingPropagator, "_propagate_tensor_meta_non_cached", unwatched),
        mock.patch.object(DistributedDataParallel, "_pre_forward", pre_forward),
    ):
        yield


def _owner(param: Any, modules: Mapping[int, str]) -> str:
    info = param._module_info
    path = modules.get(id(info.module), ROOT)
    inner = owner(info.param_name)
    return path if inner == ROOT else f"{path}.{inner}"
