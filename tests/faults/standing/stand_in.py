"""`muse-bench` whose cases are measured by stand_in_worker.py: all else is the real process."""

import functools
import sys

from muse_bench import cli
from muse_bench.execution import pool
from muse_bench.execution.process import WorkerProcess

if __name__ == "__main__":
    pool.WorkerProcess = functools.partial(WorkerProcess, module="stand_in_worker")  # type: ignore[assignment, misc]
    sys.exit(cli.main())
