"""Brings a model to a device in the parts that each rank is to hold.

What is built lies in host memory, or on `meta`, where nobody has counted it, and comes to the device unit by unit, as
FSDP2 brings what it shards: the device never holds more whole weights than those of one unit.
"""

import inspect
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor.parallel import parallelize_module
from torch.nn.parallel import DistributedDataParallel

from muse_bench import scopes
from muse_bench.config import Case
from muse_bench.sharding.group import mesh_of
from muse_bench.sharding.plans import plan_of

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


class WithLoss(nn.Module):
    """A model whose forward is the loss, which is where replicas begin to gather gradients."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy of the targets (batch, seq)."""
        return self._loss(self.model, ids, targets)


def shard(model: nn.Module, case: Case, device: torch.device, loss: Loss) -> Loss:
    """Brings the model to the device, cut as the case asks; returns the loss to train it by.

    Raises: UsageError where the model offers no plan for tensor parallelism.
    """
    if case.sharding == "fsdp":
        return _fully_sharded(model, case, device, loss)
    _bring(model, device)
    if case.sharding == "tensor":
        parallelize_module(model, mesh_of(device, case.ranks), plan_of(model, case.model))
        return loss
    return _replicated(model, device, loss) if case.mode == "train" else loss


def _fully_sharded(model: nn.Module, case: Case, device: torch.device, loss: Loss) -> Loss:
    mesh = mesh_of(device, case.ranks)
    for unit in (*units(model), model):
        _bring(unit, device)
        fully_shard(unit, mesh=mesh)
    for name in ("loss", "read_prompt"):  # ways through a model beside its forward
        if inspect.ismethod(getattr(model, name, None)):
            register_fsdp_forward_method(model, name)
    return loss


def _replicated(model: nn.Module, device: torch.device, loss: Loss) -> Loss:
    """Replicas start alike from one seed, so that none has to send its weights to the others."""
    with scopes.scope(scopes.COMMUNICATION):
        replica = DistributedDataParallel(WithLoss(model, loss), init_sync=False)
    if device.type == "meta":  # no other rank answers: what it would send back is what is there
        replica.register_comm_hook(None, _answered)

    def through(_: nn.Module, ids: Tensor, targets: Tensor) -> Tensor:
        found: Tensor = replica(ids, targets)
        return found

    return through


def _answered(_: object, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    answer: torch.futures.Future[Tensor] = torch.futures.Future()
    answer.set_result(bucket.buffer())
    return answer


def units(model: nn.Module) -> Iterator[nn.Module]:
    """What FSDP2 gathers at a time: the items of the model's outermost lists of modules, as of its blocks."""
    for child in model.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from units(child)


def _bring(module: nn.Module, device: torch.device) -> None:
    """Moves what is not on the device yet; on `meta` it is there already, but counts from now on."""

    def arrive(tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor) if tensor.device.type == "meta" else tensor.to(device)

    for parameter in module.parameters():
        if type(parameter) is nn.Parameter:  # and no shard of one
            parameter.data = arrive(parameter.data)
    for owner in module.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            setattr(owner, name, arrive(buffer))
