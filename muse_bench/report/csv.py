"""Comma-separated values: one line a record, sizes in bytes, a missing value empty."""

from muse_bench.record import RunFile

SUFFIX = ".csv"


def render(run: RunFile) -> str:
    """The run's records; whole numbers stay whole."""
    from muse_bench.analysis.frame import to_frame  # pandas is slow to import

    return str(to_frame(run.records).to_csv(index=False, lineterminator="\n"))
