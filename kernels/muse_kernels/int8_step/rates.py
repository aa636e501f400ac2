"""The constants of a step, and the bounds of what is stored."""

from dataclasses import dataclass

LARGEST_STEP = 127  # symmetric: -128 is not used
LEAST_SCALE = 2.0**-63  # the root of the smallest float32: neither what is divided by it nor its product overflows
RANDOM_BITS = 16  # as fine as a float32 near 127 is


@dataclass(frozen=True, slots=True)
class Int8Rates:
    """What multiplies the update, the weight decay, and what keeps the random bits of two matrices apart."""

    scale: float = 1.0
    decay: float = 0.0
    salt: int = 0
