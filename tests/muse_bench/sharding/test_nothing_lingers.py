"""What imagines a group of ranks is undone: whatever is predicted next in the same process is as it was."""

import gc

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp._fully_shard import _fsdp_collectives, _fsdp_param, _fsdp_param_group
from torch.nn.parallel import DistributedDataParallel

from muse_bench import scopes
from muse_bench.errors import MuseBenchError
from muse_bench.sharding.streams import current_stream


def state():
    """All that is replaced while ranks are imagined."""
    backend, group = dist.Backend, _fsdp_param_group.FSDPParamGroup
    return (
        hasattr(torch, "meta"),
        dist.is_initialized(),
        dict(backend.default_device_backend_map),
        {name: list(kinds) for name, kinds in backend.backend_capability.items()},
        group._validate_no_meta_params,
        _fsdp_param_group.foreach_all_gather,
        _fsdp_param_group.foreach_all_gather_copy_out,
        _fsdp_param_group.foreach_reduce,
        _fsdp_param.alloc_storage,
        _fsdp_param.free_storage,
        DistributedDataParallel._pre_forward,
        scopes.current(),
        current_stream(),
    )


def test_pytorch_still_has_the_functions_that_are_replaced():
    """Private ones: in a release that calls others they would be replaced for nothing, and memory lose its name."""
    assert _fsdp_param_group.foreach_all_gather is _fsdp_collectives.foreach_all_gather
    assert _fsdp_param_group.foreach_all_gather_copy_out is _fsdp_collectives.foreach_all_gather_copy_out
    assert _fsdp_param_group.foreach_reduce is _fsdp_collectives.foreach_reduce
    assert _fsdp_param_group.alloc_storage is _fsdp_param.alloc_storage


@pytest.mark.parametrize("sharding", ["fsdp", "replicas"])
def test_a_case_after_a_sharded_one_is_as_before(make_case, predict, sharding):
    before, patched = predict(make_case()), state()
    predict(make_case(sharding=sharding, ranks=2))
    assert state() == patched
    gc.collect()
    assert predict(make_case()) == before


@pytest.mark.parametrize(("factory", "sharding"), [("Broken", "fsdp"), ("Broken", "replicas"), ("Unplanned", "tensor")])
def test_also_after_one_that_raised(make_case, predict, factory, sharding):
    before, patched = predict(make_case("Planned")), state()
    with pytest.raises(MuseBenchError):
        predict(make_case(factory, sharding=sharding, ranks=2))
    assert state() == patched
    assert predict(make_case("Planned")) == before


def test_a_sharded_case_repeats_itself(make_case, predict):
    case = make_case(sharding="fsdp", ranks=2)
    assert predict(case) == predict(case)
