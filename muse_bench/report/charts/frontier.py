"""The pictures of frontiers."""

from collections.abc import Sequence

from muse_bench.analysis.frontier import Frontier
from muse_bench.report import words
from muse_bench.report.charts.curves import Curve
from muse_bench.report.charts.growth import growth
from muse_bench.report.charts.picture import Picture
from muse_bench.report.frontier import NAMES, largest_text, title
from muse_bench.units import GIB


def pictures(frontiers: Sequence[Frontier]) -> list[Picture]:
    """For each size that grew, the largest value by the budget; none where nothing fits."""
    found = []
    for size in dict.fromkeys(frontier.size for frontier in frontiers):
        along = [frontier for frontier in frontiers if frontier.size == size]
        curves = [curve for one in along if (curve := _curve(one)).points]
        if curves:
            found.append(_picture(size, along, curves))
    return found


def _picture(size: str, along: Sequence[Frontier], curves: Sequence[Curve]) -> Picture:
    each = "; ".join(f"{one.label}: {', '.join(one.texts.values())}" for one in curves)
    return Picture(
        name=f"largest-{NAMES[size].replace(' ', '-')}",
        title=title(size, along),
        says=f"The largest {NAMES[size]} by the card's memory, both axes logarithmic. {each}.",
        draw=lambda palette: growth(curves, "memory of the card, GiB", f"largest {NAMES[size]}", palette),
    )


def _curve(frontier: Frontier) -> Curve:
    edges = {edge.budget.budget_bytes / GIB: edge for edge in frontier.edges if edge.count}
    return Curve(
        label=f"{words.plain(frontier.model)} {frontier.dtype}",
        points={budget: frontier.value(edge.count) for budget, edge in edges.items()},
        texts={budget: largest_text(frontier, edge) for budget, edge in edges.items()},
    )
