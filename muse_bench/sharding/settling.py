"""What comes between the steps of a sharded case and a look at its steady state."""

import time

import torch
import torch.distributed as dist

from muse_bench.config import Case

SETTLED_SECONDS = 0.5


def settle(case: Case) -> None:
    """Waits until what a sharded case sent is let go of: NCCL's watchdog looks every tenth of a second, and what it
    finds done is freed at the next collective.

    Replicas send their first buckets so, and make others in their second step. Source: TensorShelf in
    torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp.
    """
    if case.sharding is not None and dist.get_backend() == "nccl":
        torch.cuda.synchronize()
        time.sleep(SETTLED_SECONDS)
        dist.barrier()
