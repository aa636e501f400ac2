"""Counting sort of tokens by the row of either core that their id names: stable, hence deterministic; no host sync.

The rows are few (about the square root of the vocabulary), so two launches replace the passes of a radix sort:
one counts rows by tiles of tokens, one gives each token its place.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from muse_kernels.tt_embedding.plan import Plan

BLOCK = 128


def launch_sort(ids: Tensor, v2: int, plan: Plan, counts: Tensor, starts: Tensor, order: Tensor) -> None:
    """Fills starts (2, bins): where each row's tokens begin, and order (2, tokens): the tokens, row by row."""
    grid = (plan.tiles, 2)
    with torch.cuda.device_of(ids):
        _count[grid](ids, counts, plan.tokens, plan.tile, V2=v2, BINS=plan.bins, BLOCK=BLOCK, num_warps=4)
        _place[grid](
            *(ids, counts, starts, order, plan.tokens, plan.tile),
            V2=v2,
            BINS=plan.bins,
            TILES=max(1, 4096 // plan.bins),
            BLOCK=BLOCK,
            num_warps=4,
        )


@triton.jit
def _load_rows(ids, token, stop, SECOND, V2: tl.constexpr, BINS: tl.constexpr):
    """The row of core1, or of core2, that each token's id names; the last bin past the tile's end."""
    index = tl.load(ids + token, mask=token < stop, other=0)
    first = index // V2
    row = tl.where(SECOND, index - first * V2, first)
    return tl.where(token < stop, row, BINS - 1).to(tl.int32)


@triton.jit
def _count(ids, counts, tokens, tile, V2: tl.constexpr, BINS: tl.constexpr, BLOCK: tl.constexpr):
    side = tl.program_id(1)
    begin = tl.program_id(0) * tile
    stop = tl.minimum(begin + tile, tokens)
    total = tl.zeros((BINS,), tl.int32)
    for start in range(begin, stop, BLOCK):
        row = _load_rows(ids, start + tl.arange(0, BLOCK), stop, side == 1, V2, BINS)
        total += tl.histogram(row, BINS)
    offset = (side * tl.num_programs(0) + tl.program_id(0)) * BINS
    tl.store(counts + offset + tl.arange(0, BINS), total)


@triton.jit
def _place(
    ids,
    counts,
    starts,
    order,
    tokens,
    tile,
    V2: tl.constexpr,
    BINS: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    side, mine, tiles = tl.program_id(1), tl.program_id(0), tl.num_programs(0)
    bins = tl.arange(0, BINS)
    total, before = tl.zeros((BINS,), tl.int32), tl.zeros((BINS,), tl.int32)
    for start in range(0, tiles, TILES):
        other = start + tl.arange(0, TILES)
        offsets = (side * tiles + other)[:, None] * BINS + bins[None, :]
        count = tl.load(counts + offsets, mask=(other < tiles)[:, None], other=0)
        total += tl.sum(count, axis=0)
        before += tl.sum(tl.where((other < mine)[:, None], count, 0), axis=0)
    first = tl.cumsum(total, axis=0) - total
    # What is no token was counted in the last bin, which no row owns and which ends every other.
    if mine == 0:
        tl.store(starts + side * BINS + bins, first)
    place = first + before
    begin = mine * tile
    stop = tl.minimum(begin + tile, tokens)
    lane = tl.arange(0, BLOCK)
    for start in range(begin, stop, BLOCK):
        token = start + lane
        row = _load_rows(ids, token, stop, side == 1, V2, BINS)
        earlier = (row[:, None] == row[None, :]) & (lane[None, :] < lane[:, None])
        position = tl.gather(place, row, 0) + tl.sum(earlier.to(tl.int32), axis=1)
        tl.store(order + side.to(tl.int64) * tokens + position, token, mask=token < stop)
        place += tl.histogram(row, BINS)
