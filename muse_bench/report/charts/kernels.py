"""The pictures of the kernel benchmarks."""

import dataclasses
import re
from collections.abc import Iterator, Sequence

from muse_bench.kernel_bench.benchmark import OURS
from muse_bench.kernel_bench.record import KernelRow, KernelRun
from muse_bench.report import words
from muse_bench.report.charts.picture import Picture
from muse_bench.report.charts.records import numbered
from muse_bench.report.charts.times import PASSES, Taken, times
from muse_bench.report.kernels import by_case, case_title, milliseconds_text, share_text


def pictures(run: KernelRun) -> list[Picture]:
    """The times of each case that anyone has one of, above its table."""
    found = [_picture(rows) for rows in by_case(run) if any(row.forward_seconds for row in rows)]
    names = numbered([picture.name for picture in found])
    return [dataclasses.replace(picture, name=name) for picture, name in zip(found, names, strict=True)]


def _picture(rows: Sequence[KernelRow]) -> Picture:
    taken = [one for row in rows for one in _taken(row)]
    ours = "; ".join(f"{one.contender} {one.name}: {one.end}" for one in taken if one.contender == OURS)
    said = "Time on the device; the mark on each bar is the least that the card allows."
    return Picture(
        name=re.sub(r"[^A-Za-z0-9]+", "-", case_title(rows)).strip("-"),
        title=case_title(rows),
        says=f"{said} {ours}." if ours else said,
        draw=lambda palette: times(taken, palette),
    )


def _taken(row: KernelRow) -> Iterator[Taken]:
    figures = (
        (row.forward_seconds, row.forward_limit_seconds),
        (row.forward_backward_seconds, row.forward_backward_limit_seconds),
    )
    for name, (seconds, limit) in zip(PASSES, figures, strict=True):
        if seconds is not None:
            share = f", {share_text(limit, seconds)} of the limit" if limit else ""
            end = f"{milliseconds_text(seconds)} ms{share}"
            yield Taken(words.plain(row.contender), name, seconds * 1e3, limit and limit * 1e3, end)
        elif row.status != "ok":  # else it has no such pass
            yield Taken(words.plain(row.contender), name, 0, None, row.status)
