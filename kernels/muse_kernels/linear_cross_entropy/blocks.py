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
SUMS_BYTES = 1 << 18  # of the sums over tiles of tokens that one launch leaves for a bias
NARROW = {torch.float32: 32}  # the widest head that recomputes its logits in registers, by dtype; 128 in 16 bits
ROOMY = {(8, 0), (9, 0), (10, 0), (10, 3)}
LOSSES_A_PROGRAM = 256  # tokens whose losses one program sums
MANY_TOKENS = 16_384  # above which the forward of a wide head takes larger tiles
MOST_SPLITS = 16  # of the vocabulary; each keeps 8 bytes a token
DEEP = 2048  # columns of logits, from which on the larger tile's fewer loads no longer make up for idle processors


@dataclass(frozen=True)
class Tiles:
    """What one program of a kernel works on at a time, and the warps and pipeline stages that it gets."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


LARGE = Tiles(128, 128, 64, 4, 3)  # of which an H100's processor holds two
LARGER = Tiles(128, 256, 64, 8, 3)  # which reads less from the second-level cache, and fills a processor alone


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
    """Tiles of a matrix product with this many columns."""
    if x.dtype == torch.float32 or not is_roomy(x.device):
        return Tiles(64, 64, 32, 4, 2)
    return LARGE if columns > 128 else Tiles(128, 128, 64, 8, 4)


def statistics_tiles(x: Tensor, columns: int) -> Tiles:
    """Tiles of the product in forward.

    Larger ones for few tokens, whose splits cannot fill two places a processor, and for very many, which read the
    weight so often that it matters: 4.4 ms against 5.4 for 32,768 tokens x 50,257 x 768 on an H200.
    """
    tiles = product_tiles(x, columns)
    few = -(-x.shape[0] // tiles.rows) * MOST_SPLITS < 2 * PROCESSORS
    return LARGER if (few or x.shape[0] > MANY_TOKENS) and tiles == LARGE else tiles


def sum_tiles(x: Tensor, depth: int) -> Tiles:
    """Tiles of the product, over this many columns of logits, that is added to the gradient of x."""
    if x.dtype == torch.float32 or not is_roomy(x.device):
        return Tiles(64, 64, 32, 4, 2)
    return Tiles(128, 128, 64, 8, 4) if depth >= DEEP or has_copy_engine(x.device) else LARGER


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


@cache
def has_copy_engine(device: torch.device) -> bool:
    """Whether large tiles can be fetched by descriptors (TMA): on data-centre GPUs from Hopper on."""
    return device.type == "cuda" and is_roomy(device) and torch.cuda.get_device_capability(device) >= (9, 0)


def takes_descriptors(*matrices: Tensor) -> bool:
    """Whether TMA can fetch tiles of these: 16 bits, and rows that begin at multiples of 16 bytes."""
    return all(
        has_copy_engine(matrix.device)
        and matrix.element_size() == 2
        and matrix.stride(0) % 8 == 0
        and matrix.data_ptr() % 16 == 0
        for matrix in matrices
    )


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
) -> tuple[list[tuple[Block, ...]], int]:
    """The steps of a wide head's backward, each of one block or of two that follow, and the elements of their scratch.

    The rows of the weight's gradient that are not yet written hold a block's logits while those are more than the
    budget's; so the first blocks are wide and take no scratch. The last few lie in the scratch; in between, a step
    has one block in either.
    """
    scratch_columns = max(GRAIN, _round_down(budget // (tokens * element_size)))
    steps = list(_cut(tokens, vocab_size, width, scratch_columns, gradient))
    strides = (block.stride for step in steps for block in step if not block.in_gradient)
    return steps, tokens * max(strides, default=0)


def summed_columns(row_tiles: int) -> int:
    """Columns of a block's part whose sums over each tile of tokens fit SUMS_BYTES; at least a tile."""
    return max(2 * GRAIN, _round_down(SUMS_BYTES // (4 * row_tiles)))


def _cut(tokens: int, vocab_size: int, width: int, scratch_columns: int, gradient: bool) -> Iterator[tuple[Block, ...]]:
    start = 0
    step: tuple[Block, ...]
    while start < vocab_size:
        rows = vocab_size - start if gradient else 0
        free, beside = (_free_columns(rows - taken, tokens, width) for taken in (0, scratch_columns))
        # Beyond its columns a step costs what passes the sums of x's gradient through memory, and launches: about 27 us
        # on an H200 at 8,192 tokens of width 768, more with more; another block in it costs 11 us. So two blocks pay
        # where neither is much wider than the other.
        if scratch_columns <= 2 * beside <= 4 * scratch_columns:
            middle = start + beside
            step = (Block(start, middle, True), Block(middle, middle + scratch_columns, False))
        else:
            stop = min(start + max(free, scratch_columns), vocab_size)
            step = (Block(start, stop, free > scratch_columns),)
        yield step
        start = step[-1].stop


def _free_columns(rows: int, tokens: int, width: int) -> int:
    """Columns whose logits, and whose rows of the weight's gradient, fit into rows of it; 64 elements are to align."""
    return _round_down(max(0, rows * width - 64) // (tokens + width))


def _round_down(columns: int) -> int:
    """To a multiple of 128 columns, a tile; of the grain where they are fewer."""
    multiple = 2 * GRAIN if columns >= 2 * GRAIN else GRAIN
    return columns // multiple * multiple
