"""How the Triton kernels of the loss cut their work: tiles, splits and blocks of the vocabulary, by plain rules.

Nothing here depends on the GPU at hand except whether its shared memory holds the large tiles, so that results and
scratch do not either.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from muse_kernels import chunks

PROCESSORS = 132  # of an H100 or H200; on another GPU only the balance suffers
GRAIN = 64  # columns, a multiple of which makes a block: rows of its logits begin at multiples of 128 bytes
CACHED_BYTES = 32 << 20  # a block of logits that stays in the second-level cache between the kernels that pass it on
NARROW = {torch.float32: 32}  # the widest head that recomputes its logits in registers, by dtype; 128 in 16 bits
ROOMY = {(8, 0), (9, 0), (10, 0), (10, 3)}
LOSSES_A_PROGRAM = 256  # tokens whose losses one program sums
MOST_SPLITS = 16  # of the vocabulary; each keeps 8 bytes a token


@dataclass(frozen=True)
class Tiles:
    """What one program of a kernel works on at a time, and the warps and pipeline stages that it gets."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Block:
    """Columns [start, stop) of the vocabulary; their logits lie in the weight's gradient or in the scratch."""

    start: int
    stop: int
    in_gradient: bool

    @property
    def stride(self) -> int:
        """Columns stop - start, rounded up to the grain: the length of a row of the block's logits."""
        return round_up(self.stop - self.start, GRAIN)


def is_narrow(width: int, dtype: torch.dtype) -> bool:
    """Whether logits of this width are cheaper computed again than passed through memory."""
    return width <= NARROW.get(dtype, 128)


def product_tiles(x: Tensor, columns: int) -> Tiles:
    """Tiles of a matrix product with this many columns; the large ones read least from the second-level cache."""
    if x.dtype == torch.float32:
        return Tiles(64, 64, 32, 4, 2)
    if not is_roomy(x.device):
        return Tiles(64, 64, 32, 4, 2)
    return Tiles(128, 256, 64, 8, 3) if columns > 128 else Tiles(128, 128, 64, 8, 4)


def narrow_tiles(x: Tensor, width: int, *, weight_gradient: bool = False) -> Tiles:
    """Tiles of the kernels that hold whole rows of a narrow head: depth is the width, padded.

    In the weight's gradient a wide accumulator of wide columns would not fit the registers.
    """
    depth = padded(width)
    tight = x.dtype == torch.float32 or not is_roomy(x.device) or (weight_gradient and depth > 32)
    return Tiles(64, 64 if tight else 128, depth, 4, 2)


@cache
def is_roomy(device: torch.device) -> bool:
    """Whether a program may take 163 KiB of shared memory, as on A100, H100 and later data-centre GPUs."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) in ROOMY


def padded(size: int) -> int:
    """The next power of two, and at least 16: what a matrix instruction takes."""
    return max(16, 1 << (size - 1).bit_length())


def round_up(size: int, multiple: int) -> int:
    """The least multiple that holds the size."""
    return -(-size // multiple) * multiple


def even_splits(tiles: int, pieces: int, limit: int, resident: int = 1) -> int:
    """Into how many parts each tile's loop over pieces is cut, so that programs fill the processors evenly.

    Args:
        tiles: programs without a cut.
        limit: parts that the scratch for their results allows.
        resident: programs that a processor holds at a time.
    """
    slots = PROCESSORS * resident
    most = max(1, min(pieces, limit, -(-2 * slots // max(tiles, 1))))
    rounds = [-(-tiles * parts // slots) / parts for parts in range(1, most + 1)]
    return next(parts for parts, cost in enumerate(rounds, 1) if cost <= 1.04 * min(rounds))


def logits_budget(tokens: int, vocab_size: int, width: int, element_size: int, taken: int) -> int:
    """Bytes for a block's logits: 1 % of all logits in float32 less those taken, at least x's / 4 and 1 MiB."""
    share = tokens * vocab_size * 4 // 100 - taken
    return max(share, tokens * width * element_size // 4, chunks.MIN_SCRATCH_BYTES)


def split_budget(tokens: int, vocab_size: int, element_size: int) -> int:
    """Bytes for the partial sums of a kernel that is cut into parts: 1 % of the logits, or 1 MiB."""
    return max(tokens * vocab_size * element_size // 100, chunks.MIN_SCRATCH_BYTES)


def vocabulary_blocks(
    tokens: int, vocab_size: int, width: int, element_size: int, budget: int, *, gradient: bool
) -> tuple[list[Block], int]:
    """The blocks of a wide head's backward, and the elements of scratch that they need.

    The rows of the weight's gradient that are not yet written hold a block's logits while those are more than the
    budget's; so the first blocks are wide and take no scratch. A last few blocks lie in the scratch.
    """
    scratch_columns = max(GRAIN, _round_down(budget // (tokens * element_size)))
    cap = max(scratch_columns, _round_down(CACHED_BYTES // (tokens * element_size)))
    blocks = list(_cut(tokens, vocab_size, width, scratch_columns, cap, gradient))
    return blocks, tokens * max((block.stride for block in blocks if not block.in_gradient), default=0)


def _cut(tokens: int, vocab_size: int, width: int, scratch_columns: int, cap: int, gradient: bool) -> Iterator[Block]:
    start = 0
    while start < vocab_size:
        rows = vocab_size - start
        # tokens * columns logits and columns rows of the gradient fit into the rows left, and 64 elements to align.
        free = min(cap, _round_down((rows * width - 64) // (tokens + width))) if gradient else 0
        columns = max(free, scratch_columns)
        yield Block(start, min(start + columns, vocab_size), free > scratch_columns)
        start += columns


def _round_down(columns: int) -> int:
    """To a multiple of 512 columns, which fill the processors evenly; of the grain where they are fewer."""
    multiple = 8 * GRAIN if columns >= 8 * GRAIN else GRAIN
    return columns // multiple * multiple
