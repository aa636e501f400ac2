"""Bytes to text and back, in one place. Numbers are stored as integers of bytes."""

import re
from collections.abc import Sequence
from decimal import Decimal

from muse_bench.errors import UsageError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_FACTORS = {"": 1, "b": 1, "kib": KIB, "mib": MIB, "gib": GIB, "tib": GIB << 10}


def format_bytes(count: int | None, *, decimals: int = 1) -> str:
    """Bytes as MiB below 10 GiB and as GiB from there; a dash for a missing number.

    >>> format_bytes(8_519_680)
    '8.1 MiB'
    """
    if count is None:
        return "-"
    if abs(count) < 10 * GIB:
        return f"{count / MIB:,.{decimals}f} MiB"
    return f"{count / GIB:,.{decimals + 1}f} GiB"


def format_mib(count: int | None, *, decimals: int = 1) -> str:
    """Bytes as a bare number of MiB, for columns whose heading names the unit."""
    return "-" if count is None else f"{count / MIB:,.{decimals}f}"


def format_count(count: int) -> str:
    """A number of things as `parse_count` reads it, rounded down to a tenth of its unit.

    >>> format_count(8_190_000_000)
    '8.1b'
    """
    for unit, size in reversed(_COUNTS.items()):
        if count >= size:
            return (
                f"{count // size}{unit}" if size == 1 or count >= 100 * size else f"{count * 10 // size / 10:g}{unit}"
            )
    return str(count)


def format_shape(shape: Sequence[int]) -> str:
    """The sizes of a tensor as `parse_shape` reads them."""
    return "x".join(map(str, shape))


def parse_shape(text: str) -> tuple[int, ...]:
    """Text such as '3x224x224' as the sizes of a tensor.

    Raises: UsageError when the text is not whole numbers above zero with an x between.
    """
    if re.fullmatch(r"[1-9]\d{0,12}(x[1-9]\d{0,12})*", text.lower(), re.ASCII) is None:
        raise UsageError(f"'{text}' is not a shape: write the sizes of one sample, such as 3x224x224")
    return tuple(map(int, text.lower().split("x")))


def parse_bytes(text: str) -> int:
    """Text such as '8GiB', '512 MiB' or '8589934592' as bytes.

    Raises: UsageError when the text is not a positive size in binary units, below 8 EiB.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]ib|b|)\s*", text.lower(), re.ASCII)
    if match is None:
        raise UsageError(f"'{text}' is not a size: write bytes, KiB, MiB or GiB, such as 8GiB")
    size = Decimal(match[1]) * _FACTORS[match[2]]
    if not 1 <= size < 1 << 63:
        raise UsageError(f"'{text}' is not a size: it must be at least 1 byte, and below 8 EiB")
    return int(size)


def parse_percent(text: str) -> float:
    """Text such as '10%' or '0.1' as a fraction from 0 up to, and without, 1.

    Raises: UsageError when it is neither.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*", text)
    fraction = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not 0 <= fraction < 1:
        raise UsageError(f"'{text}' is not a share: write a percentage from 0% to below 100%, such as 10%")
    return fraction


def parse_count(text: str) -> int:
    """Text such as '100M', '2.5K' or '20000' as a number of things, in powers of ten.

    Raises: UsageError when it is not a whole number from 1, below 10^15.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmb]?)\s*", text.lower().replace("_", ""), re.ASCII)
    count = Decimal(match[1]) * _COUNTS[match[2]] if match else Decimal(0)
    if not 1 <= count < 10**15 or count != int(count):
        raise UsageError(f"'{text}' is not a count: write a whole number, such as 20000, 500K or 100M")
    return int(count)
