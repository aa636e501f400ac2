"""A treemap's rectangles: areas in proportion to sizes, and sides as equal as they can be.

Source: Bruls, Huizing, van Wijk, Squarified Treemaps, 2000.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A place in a plane whose y grows downwards."""

    x: float
    y: float
    width: float
    height: float


def squarify(sizes: Sequence[float], within: Rectangle) -> list[Rectangle]:
    """A rectangle for each size, which are above zero and in falling order; together they fill `within`."""
    placed: list[Rectangle] = []
    left = within
    while len(placed) < len(sizes):
        rest = sizes[len(placed) :]
        scale = left.width * left.height / sum(rest)
        areas = [size * scale for size in rest]
        row = _row(areas, min(left.width, left.height))
        rectangles, left = _lay(row, left)
        placed += rectangles
    return placed


def slices(sizes: Sequence[float], within: Rectangle) -> list[Rectangle]:
    """A rectangle for each size, side by side along the longer side."""
    total, along, placed = sum(sizes), 0.0, []
    for size in sizes:
        share = size / total
        if within.width >= within.height:
            placed.append(Rectangle(within.x + along * within.width, within.y, share * within.width, within.height))
        else:
            placed.append(Rectangle(within.x, within.y + along * within.height, within.width, share * within.height))
        along += share
    return placed


def _row(areas: Sequence[float], side: float) -> Sequence[float]:
    """The first areas, as many as make the row's worst rectangle no flatter."""
    count = 1
    while count < len(areas) and _worst(areas[: count + 1], side) <= _worst(areas[:count], side):
        count += 1
    return areas[:count]


def _worst(areas: Sequence[float], side: float) -> float:
    """The largest ratio of sides in a row along a side."""
    thickness = sum(areas) / side
    return max(max(thickness**2 / area, area / thickness**2) for area in areas)


def _lay(row: Sequence[float], left: Rectangle) -> tuple[list[Rectangle], Rectangle]:
    """The rectangles of a row along the shorter side, and what is left."""
    upright = left.width >= left.height
    thickness = sum(row) / (left.height if upright else left.width)
    if upright:
        strip = Rectangle(left.x, left.y, thickness, left.height)
        rest = Rectangle(left.x + thickness, left.y, left.width - thickness, left.height)
    else:
        strip = Rectangle(left.x, left.y, left.width, thickness)
        rest = Rectangle(left.x, left.y + thickness, left.width, left.height - thickness)
    along, placed = 0.0, []
    for area in row:
        length = area / thickness
        if upright:
            placed.append(Rectangle(strip.x, strip.y + along, thickness, length))
        else:
            placed.append(Rectangle(strip.x + along, strip.y, length, thickness))
        along += length
    return placed, rest
