"""Storages that are emptied and filled by no operation, and results of collectives that lie where they arrive."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed import _functional_collectives as functional

from muse_bench.predict.gpus import find_gpu
from muse_bench.predict.trace import MetaObserver
from muse_bench.sharding.group import imagined

ROW = 1_024


@pytest.fixture
def observer():
    return MetaObserver(find_gpu("h200"), {}, (2, 13))


def taken(observer):
    """The sizes that were taken, and how often something was given back."""
    events = observer.trace.events
    freed = [event.key for event in events if not event.is_alloc]
    assert len(freed) == len(set(freed)) <= len({event.key for event in events})
    return [event.size_bytes for event in events if event.is_alloc], len(freed)


def test_a_storage_that_is_resized_counts_once(observer):
    """FSDP2 asks for memory that is there already, and gives back what is gone: neither may count again."""
    with observer:
        weight = torch.empty(ROW, device="meta")
        for size, expected in ((0, (1, 1)), (0, (1, 1)), (4 * ROW, (2, 1)), (4 * ROW, (2, 1))):
            with observer.resizing(weight, "resize"):
                weight.untyped_storage().resize_(size)
            sizes, freed = taken(observer)
            assert (len(sizes), freed) == expected
        weight = weight + 1
    assert taken(observer) == ([4 * ROW] * 3, 2)
    del weight
    assert taken(observer)[1] == 3


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")  # of torch 2.13, for names that 2.11 has not
@pytest.mark.parametrize("autograd", [False, True])
def test_waiting_for_a_collective_takes_nothing(observer, autograd):
    """What it was sent into is the result; `meta` would make one copy on the way, and one when it is waited for."""
    gather = functional.all_gather_tensor_autograd if autograd else functional.all_gather_tensor
    with imagined(0, 2), observer:
        x = torch.empty(ROW, device="meta", requires_grad=autograd)
        whole = gather(x, 0, dist.group.WORLD)
        assert whole.shape == (2 * ROW,)
        again = whole * 2
        assert taken(observer) == ([4 * ROW, 8 * ROW, 8 * ROW], 0)
        del again
