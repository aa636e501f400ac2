"""Blocks, which are linked stretches of segments, and the pools that keep the free ones in order."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of a segment as callers see it; `requested_bytes` is 0 while it is free."""

    address: int
    size_bytes: int
    requested_bytes: int


@dataclass(frozen=True, slots=True)
class Segment:
    """Memory taken from the driver in one piece (expandable: one mapped range), and its blocks in order."""

    address: int
    size_bytes: int
    is_small: bool
    blocks: tuple[Block, ...]


@dataclass(slots=True, eq=False)
class Node:
    """A block inside the allocator, linked to its neighbours in the segment."""

    address: int
    size: int
    pool: BlockPool
    base: int  # where the segment begins
    prev: Node | None = None
    next: Node | None = None
    block: Block | None = None  # what the caller holds; None while free
    mapped: bool = True  # False: address space of an expandable segment without memory behind it
    born: int = 0  # the pool's search count when the node became free

    @property
    def is_split(self) -> bool:
        return self.prev is not None or self.next is not None

    def cut(self, size: int) -> Node:
        """Shortens this node to `size` and returns the rest, linked after it and in no pool yet."""
        address = self.address + size
        rest = Node(address, self.size - size, self.pool, self.base, self, self.next, mapped=self.mapped)
        if rest.next is not None:
            rest.next.prev = rest
        self.next = rest
        self.size = size
        return rest

    def merge(self) -> None:
        """Takes in the free neighbours that are mapped as this node is; it must not be in its pool yet."""
        before, after = self.prev, self.next
        if before is not None and before.block is None and before.mapped == self.mapped:
            self.pool.remove(before)
            self.address = before.address
            self.size += before.size
            self.prev = before.prev
            if self.prev is not None:
                self.prev.next = self
        if after is not None and after.block is None and after.mapped == self.mapped:
            self.pool.remove(after)
            self.size += after.size
            self.next = after.next
            if self.next is not None:
                self.next.prev = self

    def segment(self) -> Segment:
        """The segment whose first node this is."""
        blocks = []
        node: Node | None = self
        while node is not None and node.mapped:
            blocks.append(node.block or Block(node.address, node.size, 0))
            node = node.next
        size_bytes = sum(block.size_bytes for block in blocks)
        return Segment(self.address, size_bytes, self.pool.is_small, tuple(blocks))


class BlockPool:
    """The free blocks of one size class, in the order (size, address) that best fit searches.

    `order` and `free` (by address) hold the mapped ones; `unmapped` (by address) holds what an expandable
    segment has reserved and not mapped. A block is split when at least `least_remainder` bytes would remain
    and the request is under `split_below`. An expandable segment of this pool grows by `page_bytes`.
    """

    def __init__(self, *, is_small: bool, least_remainder: int, split_below: int, page_bytes: int) -> None:
        self.is_small = is_small
        self.least_remainder = least_remainder
        self.split_below = split_below
        self.page_bytes = page_bytes
        self.order: list[tuple[int, int]] = []
        self.free: dict[int, Node] = {}
        self.unmapped: dict[int, Node] = {}
        self.searches = 0

    def insert(self, node: Node) -> None:
        """Adds a node that is not allocated."""
        if not node.mapped:
            self.unmapped[node.address] = node
            return
        insort(self.order, (node.size, node.address))
        self.free[node.address] = node
        node.born = self.searches

    def remove(self, node: Node) -> None:
        """Takes out a node that is here."""
        if not node.mapped:
            del self.unmapped[node.address]
            return
        del self.order[bisect_left(self.order, (node.size, node.address))]
        del self.free[node.address]

    def unsplit(self) -> list[Node]:
        """The free blocks that are whole segments, in order."""
        return [node for _, address in self.order if not (node := self.free[address]).is_split]
