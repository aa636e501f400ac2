"""The process group that a sharded case runs in: NCCL's among processes, or one on `meta` that nobody else is in."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from unittest import mock

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from torch.utils._python_dispatch import _disable_current_modes

from muse_bench.sharding.streams import imagined_device

FAKE = "fake"


@dataclass(frozen=True, slots=True)
class Seat:
    """One process's place among those of a case: its rank, and where the first one listens, as host:port."""

    rank: int
    ranks: int
    meeting_point: str


@contextlib.contextmanager
def joined(seat: Seat) -> Iterator[None]:
    """Inside, this process is in NCCL's group of all ranks, on the device of its rank."""
    torch.cuda.set_device(seat.rank)
    device = torch.device("cuda", seat.rank)
    address = f"tcp://{seat.meeting_point}"
    dist.init_process_group("nccl", init_method=address, rank=seat.rank, world_size=seat.ranks, device_id=device)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def imagined(rank: int, ranks: int) -> Iterator[None]:
    """Inside, this process is one rank of a group whose collectives move nothing, and whose device is `meta`.

    FSDP2 asks a device's module in `torch` for streams and events, and refuses weights on `meta`, which here are no
    weights still to be loaded. Source: torch/testing/_internal/distributed/fake_pg.py.
    """
    from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup
    from torch.testing._internal.distributed.fake_pg import FakeStore

    backends = {**dist.Backend.default_device_backend_map, "meta": FAKE}
    capable = {**dist.Backend.backend_capability, FAKE: [*dist.Backend.backend_capability[FAKE], "meta"]}
    with (
        mock.patch.object(torch, "meta", imagined_device(ranks), create=True),
        mock.patch.object(dist.Backend, "default_device_backend_map", backends),
        mock.patch.object(dist.Backend, "backend_capability", capable),
        mock.patch.object(FSDPParamGroup, "_validate_no_meta_params"),
    ):
        _clear_sharding_prop_cache()  # DTensor remembers sizes of parts, which are those of the rank before
        dist.init_process_group(FAKE, store=FakeStore(), rank=rank, world_size=ranks)
        try:
            yield
        finally:
            dist.destroy_process_group()


def mesh_of(device: torch.device, ranks: int) -> DeviceMesh:
    """All ranks in a row, on devices of this kind; what it counts on the way is nobody's memory."""
    with _disable_current_modes():
        return init_device_mesh(device.type, (ranks,))
