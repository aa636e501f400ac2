"""`python -m muse_bench` is `muse-bench`."""

import sys

from muse_bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
