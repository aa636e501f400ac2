"""Sizes of the Triton implementation's blocks and scratch, from the shapes alone; imports no Triton."""

from dataclasses import dataclass

import torch
from torch import Tensor

from muse_kernels import chunks
from muse_kernels.tt_embedding.plan import next_power_of_2

# Programs that share a sum, at most: two for each of 132 multiprocessors. A constant, so that neither sums nor scratch
# depend on the GPU.
MAX_PROGRAMS = 264
# Fewest copies of a core that may be taken for shares of its gradient, were even they beyond the bytes of x.
MIN_SPLITS1, MIN_SPLITS2 = 4, 16
ROWS = 16  # of core1 in a block: the narrowest product of tensor cores


@dataclass(frozen=True)
class Blocks:
    """One program's tile of logits: tokens x ROWS of core1, by columns, from blocks of the rank and of d2.

    Attributes:
        tokens, columns: tokens, and rows of core2.
        ranks, right: blocks of the rank and of d2; their product is the inner dimension of the product with core2.
        left: d1, whole, padded to a power of two.
        warps: of the program.
    """

    tokens: int
    columns: int
    ranks: int
    right: int
    left: int
    warps: int

    @staticmethod
    def of(tokens: int, core1: Tensor, core2: Tensor, *, gradients: bool) -> "Blocks":
        """Blocks for the logits of this many tokens, or for their gradients, which repay larger tiles."""
        rank, d1, d2, v2 = core1.shape[1], core1.shape[2], core2.shape[2], core2.shape[0]
        most_tokens, most_columns, depth = _tile(core1, gradients)
        left, right = _padded(d1), min(_padded(d2), 32)
        if gradients:  # as many programs as multiprocessors, where there are so many tokens
            most_tokens = min(most_tokens, max(4, next_power_of_2(tokens // 132)))
        token_block = min(most_tokens, max(1, 16384 // (left * right)), next_power_of_2(tokens))
        # One token leaves most multiprocessors idle: narrower blocks give it more programs.
        columns = min(_padded(v2), most_columns if tokens > 1 else 64)
        ranks = max(1, min(next_power_of_2(rank), depth // right))
        return Blocks(token_block, columns, ranks, right, left, 8 if token_block == 8 else 4)


def _tile(core1: Tensor, gradients: bool) -> tuple[int, int, int]:
    """Tokens, columns and inner dimension of a product: what registers hold where the product runs.

    Warp-group products (compute capability 9 and 10; meta stands for it) take their factors from shared memory,
    those of other tensor cores from registers. Float32, and 16 bits before capability 8, run on no tensor core and
    are unrolled.
    """
    major = torch.cuda.get_device_capability(core1.device)[0] if core1.is_cuda else 9
    if core1.dtype == torch.float32:
        return 4, 64, 16
    if major < 8:
        return 2, 32, 16
    if major not in (9, 10):
        return 4, 64, 64
    return (8, 128, 128) if gradients else (4, 128, 128)


@dataclass(frozen=True)
class Cut:
    """How the gradients of the cores are cut: into blocks, and each block's sum into splits, summed afterwards.

    Attributes:
        tiles, groups: blocks of tokens, and of core1's rows.
        columns, ranks, parts: blocks of core2's rows, of the rank and of d2.
        splits1, splits2: programs that share the sum of a block of core1, over tiles, and of core2, over tiles and
            groups. As many as keep their float32 shares within a quarter of the bytes of x or 1 MiB, and within those
            bytes.
    """

    tiles: int
    groups: int
    columns: int
    ranks: int
    parts: int
    splits1: int
    splits2: int

    @staticmethod
    def of(tokens: int, core1: Tensor, core2: Tensor, blocks: Blocks) -> "Cut":
        """The cut for this many tokens."""
        (v1, rank, d1), (v2, _, d2) = core1.shape, core2.shape
        tiles, groups, columns = -(-tokens // blocks.tokens), -(-v1 // ROWS), -(-v2 // blocks.columns)
        ranks, parts = -(-rank // blocks.ranks), -(-d2 // blocks.right)
        budget_bytes = max(tokens * d1 * d2 * core1.element_size(), chunks.MIN_SCRATCH_BYTES)
        most1 = max(budget_bytes // (16 * parts * core1.numel()), MIN_SPLITS1)
        most2 = max(budget_bytes // (4 * core2.numel()), MIN_SPLITS2)
        splits1 = min(tiles, most1, -(-MAX_PROGRAMS // (groups * ranks * parts)))
        splits2 = min(tiles * groups, most2, -(-MAX_PROGRAMS // (columns * ranks * parts)))
        return Cut(tiles, groups, columns, ranks, parts, splits1, splits2)

    def share_shapes(self, core1: Tensor, core2: Tensor) -> tuple[tuple[int, ...], ...]:
        """float32 scratch: shares of core1, of the rotated core2, and of theta."""
        (v1, rank, d1), (v2, _, d2) = core1.shape, core2.shape
        thetas = self.splits2 * self.columns * self.parts
        return (v1, self.splits1 * self.parts, rank, d1), (v2, self.splits2, rank, d2), (thetas, rank)


def _padded(width: int) -> int:
    return max(16, next_power_of_2(width))
