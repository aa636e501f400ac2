"""Memory that runs out.

A GPU's allocator is capped for it; where there is none the model raises what PyTorch's allocator raises.
"""

import pytest

OOM = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
GREEDY = """
import torch
from torch import nn
from faulty import Model

GIB = 1 << 30

def take():
    torch.cuda.set_per_process_memory_fraction(GIB / torch.cuda.get_device_properties(0).total_memory)
    torch.empty(2 * GIB, dtype=torch.uint8, device="cuda")

def __getattr__(name):
    if not name.startswith("take_in_"):
        raise AttributeError(name)
    return lambda: Model(take, name.removeprefix("take_in_"))
"""


@pytest.mark.fault("out of memory in build, forward, backward or optimizer, as the model raises it", "a row says oom")
def test_memory_that_runs_out_is_a_row(muse_bench, counted):
    """In a traced step it passed for a model that cannot be traced; and what the case left changed the next one."""
    left = muse_bench.struck("oom", *muse_bench.PHASES)
    assert [record["status"] for record in left.records] == ["oom"] * 4 + ["ok"]
    assert {record["reason"] for record in left.records[:-1]} == {OOM}
    assert left.out.count("ran out of memory") == 4
    alone = muse_bench("compare", "--models", "baseline", *muse_bench.PREDICTED)
    figures = ("peak_allocated_bytes", "cold_peak_allocated_bytes", "peak_reserved_bytes", "ledger")
    assert [left.records[-1][name] for name in figures] == [alone.records[0][name] for name in figures]
    counted(ran_out=4, next_case_off_by_bytes=0, exit_code=left.code)


@pytest.mark.gpu
@pytest.mark.fault(
    "out of memory on a GPU, under a cap of the allocator: in build, forward, backward, optimizer, instrumented run",
    "a row says oom; the peaks of a case whose instrumented run had too little stay",
)
def test_memory_of_a_gpu_that_runs_out_is_a_row(muse_bench, folder, counted):
    """The error of the instrumented run took the measured peaks with it."""
    (folder / "greedy.py").write_text(GREEDY)
    models = [f"greedy.py:take_in_{phase}" for phase in (*muse_bench.PHASES, "instrumented")]
    left = muse_bench("compare", "--models", ",".join([*models, "baseline"]), *muse_bench.MEASURED)
    assert [record["status"] for record in left.records] == ["oom"] * 4 + ["ok", "ok"]
    assert left.records[-2]["ledger"] is None
    assert left.records[-2]["peak_allocated_bytes"] > 0
    counted(ran_out=5, peaks_kept=1, exit_code=left.code)
