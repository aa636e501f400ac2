"""Host memory in one mapping: blocks that no piece's border crosses, and nothing that stays registered."""

import gc
import mmap
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from muse_bench.errors import ExitCode, HostMemoryShort
from muse_bench.layers.recompute import HostStore
from muse_bench.streaming import memory
from muse_bench.streaming.memory import ALIGNMENT, HostMemory, lay_out
from muse_bench.streaming.page import Page, memory_for

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PAGE = mmap.PAGESIZE


def mapped(address: int) -> bool:
    spans = (line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines())
    return any(int(start, 16) <= address < int(stop, 16) for start, stop in spans)


@given(st.lists(st.integers(1, 5 * PAGE), min_size=1, max_size=20), st.integers(1, 4 * PAGE))
def test_no_block_crosses_the_border_of_a_piece(sizes: list[int], piece_bytes: int) -> None:
    """A copy that does is refused by CUDA; two registrations may not share a page of the system."""
    layout = lay_out(sizes, piece_bytes)
    before = 0
    for start, size in zip(layout.starts, sizes, strict=True):
        assert start % ALIGNMENT == 0
        assert start >= before
        before = start + size
        assert any(begin <= start and before <= end for begin, end in layout.pieces)
    borders = [border for piece in layout.pieces for border in piece]
    assert all(border % PAGE == 0 for border in borders)
    assert borders[0] == 0
    assert borders[1:-1:2] == borders[2::2]
    assert layout.size_bytes <= sum(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes) + PAGE * len(layout.pieces)


@pytest.mark.parametrize("sizes", [[], [8, 0], [-1]])
def test_blocks_of_nothing_are_refused(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="at least a byte"):
        HostMemory(CPU).reserve(sizes)


def test_blocks_hold_what_is_written_to_them() -> None:
    """Blocks that overlap, or two of one size that are the same one."""
    host = HostMemory(CPU)
    host.reserve([700, 512, 700])
    blocks = [host.take(size) for size in (700, 700, 512, 64)]
    for value, block in enumerate(blocks, 1):
        block.fill_(value)
    assert [sorted(set(block.tolist())) for block in blocks] == [[1], [2], [3], [4]]
    assert [len(block) for block in blocks] == [700, 700, 512, 64]
    assert all(block.data_ptr() % ALIGNMENT == 0 for block in blocks)
    assert all(block.untyped_storage().data_ptr() == block.data_ptr() for block in blocks)  # is_pinned asks there


def test_every_piece_is_registered_and_told_of(cudart: Any) -> None:
    host = HostMemory(CUDA, piece_bytes=2 * PAGE)
    told: list[tuple[int, int]] = []
    host.reserve([PAGE, PAGE, 3 * PAGE, 512], lambda done, total: told.append((done, total)))
    assert list(cudart.registered.values()) == [2 * PAGE, 3 * PAGE, PAGE]
    assert told == [(2 * PAGE, 6 * PAGE), (5 * PAGE, 6 * PAGE), (6 * PAGE, 6 * PAGE)]
    assert host.size_bytes == 6 * PAGE
    host.close()
    assert not cudart.registered
    assert not mapped(cudart.calls[0])
    assert host.size_bytes == 0
    assert cudart.synchronised == 1


@pytest.mark.parametrize("piece", [0, 1, 3])
def test_a_piece_that_is_refused_leaves_nothing(piece: int, cudart: Any) -> None:
    host = HostMemory(CUDA, piece_bytes=PAGE)
    cudart.refuse_at = piece
    with pytest.raises(HostMemoryShort) as caught:
        host.reserve([PAGE] * 4)
    assert len(cudart.calls) == piece + 1
    assert not cudart.registered
    assert not mapped(cudart.calls[0])
    assert cudart.forgotten == 1
    assert (caught.value.needed_bytes, caught.value.fitting_bytes) == (4 * PAGE, piece * PAGE)
    assert "out of memory" in str(caught.value)
    assert "\n" not in str(caught.value)
    cudart.refuse_at = None
    host.reserve([PAGE] * 4)
    assert len(cudart.registered) == 4
    host.close()


def test_an_interrupt_while_registering_leaves_nothing(cudart: Any) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2 * PAGE:
            raise KeyboardInterrupt

    host = HostMemory(CUDA, piece_bytes=PAGE)
    with pytest.raises(KeyboardInterrupt):
        host.reserve([PAGE] * 4, stop)
    assert len(cudart.calls) == 2
    assert not cudart.registered
    assert host.size_bytes == 0


def test_an_interrupt_right_behind_a_registration_leaves_nothing(cudart: Any) -> None:
    """CUDA has registered the piece, and Python has not heard of it yet."""
    cudart.interrupt_at = 1
    with pytest.raises(KeyboardInterrupt):
        HostMemory(CUDA, piece_bytes=PAGE).reserve([PAGE] * 3)
    assert len(cudart.calls) == 2
    assert not cudart.registered


def test_a_block_keeps_its_memory_registered_until_it_goes(cudart: Any) -> None:
    """A page that outlives the arena must not be read by a GPU where nothing is registered any more."""
    host = HostMemory(CUDA)
    host.reserve([512, 512])
    view = host.take(512)[:64].view(torch.float32)
    del host
    assert len(cudart.registered) == 1
    view.fill_(2)
    del view
    assert not cudart.registered
    assert not mapped(cudart.calls[0])


def test_a_block_is_plain_memory_once_all_is_closed(cudart: Any) -> None:
    with HostMemory(CUDA) as host:
        block = host.take(512).fill_(7)
    assert not cudart.registered
    assert block.tolist() == [7] * 512


@pytest.mark.parametrize(("available", "fits"), [(100 << 30, True), (3 << 20, False)])
def test_too_little_memory_is_seen_before_any_is_mapped(
    available: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: available)
    host, size = HostMemory(CPU), 2 << 20
    if fits:
        assert len(host.take(size)) == size
        return
    monkeypatch.setattr(mmap, "mmap", None)  # not even asked
    with pytest.raises(HostMemoryShort, match=r"2\.0 MiB needed, 3\.0 MiB available, and 1\.0 MiB would fit") as caught:
        host.take(size)
    assert caught.value.exit_code == ExitCode.CASE_FAILED
    assert (caught.value.available_bytes, caught.value.fitting_bytes) == (available, 1 << 20)


def test_what_would_fit_does_fit(cudart: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves room for what the driver keeps of each page that it registers."""
    monkeypatch.setattr(memory, "available_bytes", lambda: 3 << 30)
    with pytest.raises(HostMemoryShort) as caught:
        HostMemory(CUDA).reserve([3 << 30])
    fitting = caught.value.fitting_bytes
    assert fitting is not None
    assert fitting < 2 << 30
    HostMemory(CUDA)._check(fitting)
    with pytest.raises(HostMemoryShort):
        HostMemory(CUDA)._check(fitting + 1)


def test_what_was_given_counts_in_place_of_what_the_kernel_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A virtual machine that grows has more; and what is mapped by now is no longer left."""
    monkeypatch.setattr(memory, "available_bytes", lambda: 0)
    host = HostMemory(CPU, total_bytes=3 * PAGE)
    block = host.take(2 * PAGE)
    with pytest.raises(HostMemoryShort, match="left of what was given") as caught:
        host.take(2 * PAGE)
    assert (caught.value.available_bytes, caught.value.fitting_bytes) == (PAGE, PAGE)
    assert "--host-memory" in str(caught.value)
    del block
    assert len(host.take(3 * PAGE)) == 3 * PAGE


def test_what_was_given_may_be_more_than_the_kernel_knows_of() -> None:
    """It refuses a mapping of more than all of its memory, unless that is not counted.

    4 TiB: what draws charts in the same process may have taken the middle of all addresses, and left no 64 TiB in one.
    """
    assert memory._anonymous(1 << 42, memory.NOT_COUNTED)


def test_a_kernel_that_refuses_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    with pytest.raises(HostMemoryShort, match=r"65,536\.00 GiB needed, the system refused: Cannot allocate memory"):
        HostMemory(CPU).reserve([1 << 46])


def test_memory_in_a_file_leaves_nothing_in_the_folder(tmp_path: Path, cudart: Any) -> None:
    host = HostMemory(CUDA, folder=tmp_path)
    block = host.take(3 * PAGE).fill_(5)
    assert list(tmp_path.iterdir()) == []
    assert not cudart.calls  # registering would hold the whole file in memory
    host.close()
    assert block.unique().tolist() == [5]


def test_a_disk_that_is_too_full_is_seen_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=PAGE))
    with pytest.raises(HostMemoryShort):
        HostMemory(CPU, folder=tmp_path).reserve([2 * PAGE])


def test_pages_take_exactly_what_they_need(cudart: Any) -> None:
    """PyTorch would pin a page of 513 KiB as 1 MiB."""
    parts = [[torch.randn(513, 256), torch.randn(3, 5)], [torch.randn(7, 7)]]
    host = memory_for(parts, CPU)
    assert host is not None
    kept = [tensor.clone() for part in parts for tensor in part]
    pages = [Page(part, host) for part in parts]
    assert host.size_bytes == -(-sum(page.size_bytes for page in pages) // PAGE) * PAGE
    for expected, value in zip(kept, [value for page in pages for value in page.values()], strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=0)
    assert memory_for([[torch.empty(2, 2, device="meta")]], torch.device("meta")) is None


def test_a_page_without_an_arena_lets_go_with_its_last_reference() -> None:
    """A cycle would keep the memory of a model's weights while those that come after it are mapped."""
    gc.disable()
    try:
        page = Page([torch.randn(4, 4)], HostMemory(CPU))
        gone = weakref.ref(page)
        del page
        assert gone() is None
    finally:
        gc.enable()


def test_a_store_takes_its_places_from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The place of a former shape goes before there is another."""
    host, reserve = HostMemory(CPU), HostMemory.reserve
    store = HostStore(host)

    def watched(memory: HostMemory, sizes: list[int]) -> None:
        assert memory.size_bytes == 0
        reserve(memory, sizes)

    monkeypatch.setattr(HostMemory, "reserve", watched)
    for rows in (3, 5):
        x = torch.randn(rows, 40, dtype=torch.float64)
        ticket = store.put(0, x)
        torch.testing.assert_close(store.get(0, ticket, slice(1, 3), x[1:3]), x[1:3], rtol=0, atol=0)
        assert host.size_bytes == PAGE
