"""Sizes of the Triton implementation's blocks and scratch, from the shapes alone; imports no Triton."""

from dataclasses import dataclass

from torch import Tensor

MAX_TILES = 128  # the sort's second launch reads every tile's counts in every program
MIN_PIECE, MAX_PIECES = 64, 1024


@dataclass(frozen=True)
class Plan:
    """How one backward cuts its tokens, sorted once by the row of core1 and once by the row of core2.

    Attributes:
        tile, tiles: tokens that a program of the sort places in order, a multiple of 128, and such programs.
        bins: counters of the sort: more than v1, so that the last one may count what is no token.
        piece: most tokens of one row that a program contracts; a row with more is cut into pieces.
        pieces: most pieces that there can be, for core1 and for core2.
        summed, kept: blocks of the widths that a program sums over and keeps, for core1 and for core2.
        ranks: block of the rank.
    """

    tokens: int
    tile: int
    tiles: int
    bins: int
    piece: int
    pieces: tuple[int, int]
    summed: tuple[int, int]
    kept: tuple[int, int]
    ranks: int
    kept_blocks: tuple[int, int]

    @staticmethod
    def of(tokens: int, core1: Tensor, core2: Tensor) -> "Plan":
        """The plan of a backward over this many tokens."""
        (v1, rank, d1), (v2, _, d2) = core1.shape, core2.shape
        tile = max(256, -(-tokens // (MAX_TILES * 128)) * 128)
        piece = max(MIN_PIECE, next_power_of_2(-(-tokens // MAX_PIECES)))
        whole = tokens // piece  # full pieces, at most; each row adds one that is not full
        kept = tuple(min(next_power_of_2(max(width, 16)), 64) for width in (d1, d2))
        return Plan(
            tokens=tokens,
            tile=tile,
            tiles=-(-tokens // tile),
            bins=next_power_of_2(v1 + 1),
            piece=piece,
            pieces=(whole + min(v1, tokens), whole + min(v2, tokens)),
            summed=(min(next_power_of_2(d2), 64), min(next_power_of_2(d1), 64)),
            kept=(kept[0], kept[1]),
            ranks=min(next_power_of_2(rank), 64),
            kept_blocks=(-(-d1 // kept[0]), -(-d2 // kept[1])),
        )

    def integer_sizes(self) -> tuple[int, int, int]:
        """int32 numbers of scratch: both orders of the tokens, counts of the tiles, starts of the rows."""
        return 2 * self.tokens, 2 * self.tiles * self.bins, 2 * self.bins

    def share_shapes(self, core1: Tensor, core2: Tensor) -> tuple[tuple[int, ...], ...]:
        """float32 scratch: shares of core1, of the rotated core2, and of theta."""
        rank = core1.shape[1]
        first, second = self.pieces
        return (first, rank, core1.shape[2]), (second, rank, core2.shape[2]), (second * self.kept_blocks[1], rank)


def next_power_of_2(value: int) -> int:
    """The least power of two that is at least the value, and at least 1."""
    return 1 << max(value - 1, 0).bit_length()
