"""Expandable segments: address space reserved once, where pages of memory are mapped as blocks need them."""

from __future__ import annotations

from muse_bench.predict.block_pool import BlockPool, Node
from muse_bench.predict.device_memory import DeviceMemory


def least_expandable(pool: BlockPool, index: int) -> int:
    """The best fit from `index` on, where a block counts with the unmapped space it can grow into."""
    order = pool.order
    while index + 1 < len(order) and _reach(pool, index + 1) < _reach(pool, index):
        index += 1
    return index


def _reach(pool: BlockPool, index: int) -> int:
    node = pool.free[pool.order[index][1]]
    after = node.next
    return node.size if after is None or after.mapped else node.size + after.size


def take_pages(memory: DeviceMemory, pool: BlockPool, size: int) -> Node | None:
    """A block of at least `size` at the lowest address where mapping pages makes one; None when memory ends.

    Pages that were mapped before memory ended stay mapped, free in the pool.
    """
    node = _find_address_space(memory, pool, size)
    if not node.mapped and not _map(memory, node, min(node.size, size)):
        return None
    while node.size < size:
        after = node.next
        if after is None or not _map(memory, after, min(size - node.size, after.size)):
            return None
        node = after
    pool.remove(node)
    return node


def return_pages(memory: DeviceMemory, pool: BlockPool) -> None:
    """Unmaps every page that holds no part of an allocated block."""
    for _, address in list(pool.order):
        _unmap(memory, pool.free[address])


def _find_address_space(memory: DeviceMemory, pool: BlockPool, size: int) -> Node:
    """The first node of the lowest free run with room for `size`; a new segment where there is none."""
    for address in sorted(pool.unmapped):
        node = pool.unmapped[address]
        if node.prev is not None and node.prev.block is None:
            node = node.prev
        if _has_room(node, size):
            return node
    pages = -(-(memory.gpu_bytes + memory.gpu_bytes // 8) // pool.page_bytes)
    length = pages * pool.page_bytes
    address = memory.place(length)
    node = Node(address, length, pool, address, mapped=False)
    pool.insert(node)
    return node


def _has_room(node: Node | None, size: int) -> bool:
    while node is not None and node.block is None and size > 0:
        size -= node.size
        node = node.next
    return size <= 0


def _map(memory: DeviceMemory, node: Node, size: int) -> bool:
    """Puts memory behind the first pages of an unmapped node, which then joins its free neighbours."""
    pool = node.pool
    mapped = -(-size // pool.page_bytes) * pool.page_bytes
    if not memory.has(mapped):
        return False
    pool.remove(node)
    if mapped < node.size:
        pool.insert(node.cut(mapped))
    node.mapped = True
    node.merge()
    pool.insert(node)
    memory.reserve(mapped)
    return True


def _unmap(memory: DeviceMemory, node: Node) -> None:
    """Takes the memory from the whole pages inside a free node; address space left empty is given back."""
    pool, page = node.pool, node.pool.page_bytes
    first = -(-(node.address - node.base) // page) * page + node.base
    end = (node.address + node.size - node.base) // page * page + node.base
    if first >= end:
        return
    pool.remove(node)
    if first > node.address:
        rest = node.cut(first - node.address)
        pool.insert(node)
        node = rest
    if end < node.address + node.size:
        pool.insert(node.cut(end - node.address))
    node.mapped = False
    memory.reserve(first - end)
    node.merge()
    if node.is_split:
        pool.insert(node)
    else:
        memory.remove(node.base)
