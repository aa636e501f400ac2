"""The record file itself: JSON, the format that every other one is rendered from."""

from muse_bench.record import RunFile

SUFFIX = ".json"


def render(run: RunFile) -> str:
    """The run as `read_run_file` reads it."""
    return run.to_json()
