"""How 4-bit values lie in memory: two in a byte, and a scale for each group along a row."""

GROUP = 128  # values of a row that share a scale; the last group of a row may be shorter
PAIR = 2  # values in a byte: the first in the low bits
BITS = 4
LOW_BITS = (1 << BITS) - 1
ZERO = 1 << (BITS - 1)  # stored for the value 0: what is stored lies in [0, 15], the value in [-8, 7]
ZEROS = ZERO | ZERO << BITS  # a byte of them


def packed_shapes(out_features: int, in_features: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Of the bytes and of the scales."""
    return (out_features, -(-in_features // PAIR)), (out_features, -(-in_features // GROUP))
