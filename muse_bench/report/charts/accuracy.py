"""The pictures of predictions beside measurements."""

from collections.abc import Sequence

from muse_bench.analysis.accuracy import PEAK, Pair, pair_up
from muse_bench.analysis.calibration import part_of
from muse_bench.record import RunFile
from muse_bench.report.accuracy import case_text
from muse_bench.report.charts.errors import Point, against, errors
from muse_bench.report.charts.picture import Picture
from muse_bench.units import format_mib


def pictures(runs: Sequence[RunFile]) -> list[Picture]:
    """The predicted peaks against the measured ones, and their errors; none without a case of both."""
    pairs = pair_up(record for run in runs for record in run.records)
    points = [point for pair in pairs if (point := _point(pair)) is not None]
    if not points:
        return []
    worst = max(points, key=lambda point: abs(point.error))
    said = f"{len(points)} cases; the largest error is {worst.error:+.2%}: {worst.case}."
    return [
        Picture(
            "predicted-measured",
            "Predicted against measured peaks",
            f"On the dashed line they agree. {said}",
            lambda palette: against(points, palette),
        ),
        Picture(
            "errors",
            "The error of each predicted peak",
            f"A point a case; above zero the prediction says more than was measured. {said}",
            lambda palette: errors(points, palette),
        ),
    ]


def _point(pair: Pair) -> Point | None:
    measured, predicted, error = (
        pair.measured.peak_allocated_bytes,
        pair.predicted.peak_allocated_bytes,
        pair.error(PEAK),
    )
    if measured is None or predicted is None or error is None:
        return None
    says = f"predicted {format_mib(predicted)}, measured {format_mib(measured)}, {error:+.2%}"
    return Point(part_of(pair.measured), case_text(pair.measured), measured, predicted, error, says)
