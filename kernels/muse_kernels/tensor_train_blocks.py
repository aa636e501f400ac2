"""A tensor-train head by blocks of its table's rows, for ranks so high that a product with each is cheaper.

A block of the vocabulary is expanded from the cores into one scratch and serves as a dense head's weight; the gradient
of those rows takes its place and is contracted into float32 shares of the cores' gradients. Tokens come in chunks: what
sums a chunk's gradient of x, and a block's logits, then leave place for more columns. Imports no Triton.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from muse_kernels.chunks import slices
from muse_kernels.implementation import launches
from muse_kernels.linear_cross_entropy import blocks
from muse_kernels.linear_cross_entropy.blocks import Tiles

Cores = tuple[Tensor, Tensor, Tensor]  # core1, core2, theta; contiguous
Fill = Callable[[Tensor, slice, Tensor], None]  # (gradient of a block's logits, its ids, its rows of the table)
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]

STEP_WORK = 6 << 30  # multiply-adds for which matrix units need the 20 us in which a step's small kernels pass
MOST_CHUNKS = 16
SPLITS = 2  # of a sum in the gradient of core1: programs that leave shares of their own
LEFT_COLUMNS, RIGHT_COLUMNS = 512, 128  # (j, b) of a tile of the rows' gradient that is contracted for core1, core2


@dataclass(frozen=True)
class Plan:
    """Tokens of a chunk and ids of a block, and how many blocks of chunks there are; columns are a multiple of 64."""

    tokens: int
    columns: int
    steps: int


def part(size: int) -> int:
    """What a tile holds of the rank, d1 or d2: 16 or 32."""
    return 16 if size <= 16 else 32


def plan_gradients(x: Tensor, cores: Cores, vocab_size: int, budget_bytes: int, free_ranks: int) -> Plan | None:
    """The quickest plan whose scratch is within these bytes; None where the kernels without blocks are quicker.

    These take about as long as the products with an expanded table if the rank is free_ranks; each rank more costs
    them what one of those products does, tokens * vocab_size * d_model multiply-adds.
    """
    (tokens, width), rank = x.shape, cores[0].shape[1]
    if tokens == 0 or x.dtype == torch.float32 or rank <= free_ranks:
        return None
    tiles = blocks.product_tiles(x, vocab_size)
    plans = [
        plan
        for count in range(1, MOST_CHUNKS + 1)
        if (plan := _plan(tokens, vocab_size, width, count, budget_bytes - _share_bytes(*cores), tiles)) is not None
    ]
    best = min(plans, key=lambda plan: plan.steps * _step_work(plan, width, tiles), default=None)
    saved = tokens * vocab_size * width * (rank - free_ranks)
    return best if best is not None and saved > best.steps * STEP_WORK else None


def block_columns(vocab_size: int, width: int, element_size: int, budget_bytes: int) -> int:
    """Ids of a block of which only the table's rows are held, in so many bytes: even blocks, a multiple of 64."""
    most = max(blocks.GRAIN, budget_bytes // (width * element_size) // blocks.GRAIN * blocks.GRAIN)
    even = -(-vocab_size // -(-vocab_size // most))
    return min(most, blocks.round_up(even, 4 * blocks.GRAIN))


def expand(cores: Cores, ids: slice, table: Tensor) -> Tensor:
    """The table's rows of these ids, (columns, d_model), in the first rows of the scratch."""
    rows = table[: ids.stop - ids.start]
    if launches(rows):
        from muse_kernels.tensor_train_blocks_kernel import launch_expand

        launch_expand(*cores, rows, ids.start)
    return rows


def gradients(
    x: Tensor, cores: Cores, vocab_size: int, plan: Plan, fills: Callable[[slice], Fill], needs: tuple[bool, ...]
) -> Gradients:
    """Those needed of the gradients of (x, core1, core2, theta).

    Args:
        x: (tokens, d_model), rows that lie together.
        fills: for a chunk of tokens, what fills the gradient of the logits of a block.
    """
    tokens, width = x.shape
    grad_x = x.new_empty(tokens, width) if needs[0] else None
    shares = _new_shares(*cores) if any(needs[1:]) else None
    table, scratch = x.new_empty(plan.columns, width), x.new_empty(plan.tokens, plan.columns)
    lower = None if grad_x is None else x.new_empty(plan.tokens, width, dtype=torch.uint8)
    for chunk in slices(tokens, plan.tokens):
        fill, x_rows = fills(chunk), x[chunk]
        for ids in slices(vocab_size, plan.columns):
            rows = expand(cores, ids, table)
            grad_logits = scratch[: x_rows.shape[0], : rows.shape[0]]
            fill(grad_logits, ids, rows)
            if grad_x is not None:
                _add_product(grad_logits, rows, grad_x[chunk], lower, ids.start == 0, ids.stop == vocab_size)
            if shares is not None:
                torch.mm(grad_logits.transpose(0, 1), x_rows, out=rows)
                _contract(cores, ids, rows, shares)
    return grad_x, *(_finish(cores, shares) if shares is not None else (None, None, None))


def _plan(tokens: int, vocab_size: int, width: int, count: int, scratch_bytes: int, tiles: Tiles) -> Plan | None:
    """The plan for so many chunks; None where its scratch does not hold a block."""
    chunk = min(tokens, blocks.round_up(-(-tokens // count), tiles.rows))
    # A token's: 1 byte for each element of x, its target in the block and its statistics.
    free = scratch_bytes - chunk * (width + 16)
    columns = min(
        free // (2 * (chunk + width)) // blocks.GRAIN * blocks.GRAIN, blocks.round_up(vocab_size, blocks.GRAIN)
    )
    return Plan(chunk, columns, -(-tokens // chunk) * -(-vocab_size // columns)) if columns > 0 else None


def _step_work(plan: Plan, width: int, tiles: Tiles) -> int:
    """Multiply-adds that the processors could do in the time of a step, some of them idle in a product's last round."""
    places, row_tiles = blocks.PROCESSORS * (8 // tiles.warps), -(-plan.tokens // tiles.rows)
    logits = -(-row_tiles * -(-plan.columns // tiles.columns) // places) * width
    sums = -(-row_tiles * -(-width // tiles.columns) // places) * plan.columns
    table = plan.tokens * plan.columns * width
    return (logits + sums) * places * tiles.rows * tiles.columns + table + STEP_WORK


def _theta_rows(core2: Tensor) -> int:
    v2, _, d2 = core2.shape
    return -(-v2 // (RIGHT_COLUMNS // part(d2))) * -(-d2 // part(d2))


def _share_bytes(core1: Tensor, core2: Tensor, theta: Tensor) -> int:
    return 4 * (SPLITS * core1.numel() + core2.numel() + _theta_rows(core2) * theta.numel())


def _new_shares(core1: Tensor, core2: Tensor, theta: Tensor) -> Cores:
    """Of core1 (v1, SPLITS, rank, d1), of core2 (v2, 1, rank, d2), of theta (rows, rank)."""
    shapes = (core1.shape[0], SPLITS, *core1.shape[1:]), (core2.shape[0], 1, *core2.shape[1:])
    first, second = (core1.new_zeros(shape, dtype=torch.float32) for shape in shapes)
    return first, second, theta.new_empty(_theta_rows(core2), theta.shape[0], dtype=torch.float32)


def _contract(cores: Cores, ids: slice, grad_rows: Tensor, shares: Cores) -> None:
    if launches(grad_rows):
        from muse_kernels.tensor_train_blocks_kernel import launch_contract

        launch_contract(*cores, grad_rows, ids.start, shares)


def _finish(cores: Cores, shares: Cores) -> Cores:
    """The gradients of the cores, rounded once, the rotation undone."""
    results = torch.empty_like(cores[0]), torch.empty_like(cores[1]), torch.empty_like(cores[2])
    if launches(results[0]):
        from muse_kernels.tensor_train_shares import launch_sum_shares

        launch_sum_shares(shares, cores[2], results, (SPLITS, 1, shares[2].shape[0]))
    return results


def _add_product(left: Tensor, right: Tensor, total: Tensor, lower: Tensor | None, first: bool, last: bool) -> None:
    if launches(total):
        from muse_kernels.linear_cross_entropy.wide_kernel import launch_add_product

        tiles = blocks.sum_tiles(total, right.shape[0])
        launch_add_product(left, right, total, lower, tiles, first=first, last=last)
