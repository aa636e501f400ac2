"""On a real GPU: host memory that is registered is pinned, is copied both ways while work goes on, and is let go."""

import mmap
from pathlib import Path

import pytest
import torch

from muse_bench.streaming.files import load_weights, map_weights, save_weights
from muse_bench.streaming.lane import Lane
from muse_bench.streaming.memory import HostMemory
from muse_bench.streaming.page import Page, memory_for
from muse_bench.streaming.registration import NotRegistered, Registration
from muse_bench.streaming.ring import Ring
from muse_kernels import host_rows

pytestmark = pytest.mark.gpu
MIB = 1 << 20
SIZES = [3 * MIB, MIB + 512, 5 * MIB, 512]


def cuda() -> torch.device:
    return torch.device("cuda")


def test_blocks_are_pinned_until_all_is_closed() -> None:
    """In several pieces, of which one block is larger than a piece should be."""
    host = HostMemory(cuda(), piece_bytes=4 * MIB)
    host.reserve(SIZES)
    blocks = [host.take(size) for size in SIZES]
    assert all(block.is_pinned() for block in blocks)
    assert all(block[len(block) // 2 :].view(torch.float32).is_pinned() for block in blocks)
    host.close()
    assert not any(block.is_pinned() for block in blocks)
    assert blocks[1].fill_(3).unique().tolist() == [3]


def test_asynchronous_copies_bring_every_byte_both_ways() -> None:
    with HostMemory(cuda(), piece_bytes=4 * MIB) as host:
        host.reserve(SIZES * 2)
        for size in SIZES:
            source, target = host.take(size), host.take(size)
            source.random_(256)
            target.zero_()
            there = torch.empty(size, dtype=torch.uint8, device="cuda")
            inward, outward = Lane(cuda()), Lane(cuda())
            inward.begin()
            whole = inward.copy(there, source)
            outward.copy(target, there, [whole])
            outward.finish()
            torch.cuda.synchronize()
            assert torch.equal(target, source)
            assert torch.equal(there.cpu(), source)


def test_a_copy_from_a_block_does_not_wait_for_the_device() -> None:
    """Memory that is not registered would be copied at once, and the host would stand still until then."""
    with HostMemory(cuda()) as host:
        block = host.take(MIB)
        there = torch.empty(MIB, dtype=torch.uint8, device="cuda")
        there.copy_(block, non_blocking=True)
        torch.cuda.synchronize()
        torch.cuda._sleep(500_000_000)
        there.copy_(block, non_blocking=True)
        behind = torch.cuda.current_stream().record_event()
        assert not behind.query()
        torch.cuda.synchronize()


def test_the_device_reads_rows_where_they_lie() -> None:
    table = torch.randn(77, 192, dtype=torch.bfloat16)
    with HostMemory(cuda()) as host:
        block = host.take(table.nbytes).view(torch.bfloat16).view(table.shape)
        block.copy_(table)
        ids = torch.randint(77, (3, 19))
        torch.testing.assert_close(host_rows(block, ids.cuda()).cpu(), table[ids], rtol=0, atol=0)


def test_memory_that_CUDA_refuses_leaves_the_device_usable() -> None:  # noqa: N802
    """Its error would be reported by the next kernel, which has nothing to do with it."""
    registration = Registration(cuda())
    with HostMemory(cuda()) as host:
        block = host.take(mmap.PAGESIZE)
        with pytest.raises(NotRegistered):
            registration.add(block.data_ptr(), mmap.PAGESIZE)  # a second time
        assert torch.ones(3, device="cuda").sum().item() == 3
    registration.add(block.data_ptr(), mmap.PAGESIZE)
    assert block.is_pinned()
    registration.undo()
    assert not block.is_pinned()


def test_a_page_outlives_the_arena_that_it_came_from() -> None:
    tensors = [torch.full((300, 300), float(index), device="cuda") for index in range(3)]
    memory = memory_for([[tensor] for tensor in tensors], cuda())
    assert memory is not None
    pages = [Page([tensor], memory) for tensor in tensors]
    del memory
    assert all(page.host is not None and page.host.is_pinned() for page in pages)
    ring = Ring(pages, Lane(cuda()), Lane(cuda()))
    for step in range(2):
        ring.begin(2)
        for index, tensor in enumerate(tensors):
            with ring.lend(index, (index + 1) % 3, keep=True):
                assert tensor.unique().tolist() == [float(index + 10 * step)]
                tensor += 10
        torch.cuda.synchronize()


def test_weights_of_a_file_reach_the_device(tmp_path: Path) -> None:
    """Copied into registered memory, and mapped without being registered."""
    tensor = torch.randn(256, 256, device="cuda")
    expected = tensor.clone()
    memory = memory_for([[tensor]], cuda())
    page = Page([tensor], memory)
    named = [(page, ["w"])]
    save_weights(tmp_path / "w", {"w": page.values()[0]}, named)
    for mapped in (False, True):
        page.values()[0].zero_()
        wanted = {"w": page.values()[0]}
        if mapped:
            assert map_weights(tmp_path / "w", wanted, named) == expected.nbytes
        else:
            load_weights(tmp_path / "w", wanted)
        assert page.host is not None
        assert page.host.is_pinned() != mapped
        ring = Ring([page], Lane(cuda()), Lane(cuda()))
        ring.begin(1)
        with ring.lend(0, None, keep=False):
            torch.testing.assert_close(tensor, expected, rtol=0, atol=0)
