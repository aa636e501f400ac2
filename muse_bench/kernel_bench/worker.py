"""The worker process of the kernel benchmarks: measures one implementation of one case for each request."""

import gc
from collections.abc import Callable
from typing import Any

import torch

from muse_bench.execution.worker import gpu_facts, serve
from muse_bench.kernel_bench import benchmarks
from muse_bench.kernel_bench.rates import measure_rates
from muse_bench.kernel_bench.timing import Bench

Say = Callable[[str], None]


def answer(request: Any, say: Say) -> dict[str, Any]:
    """The rates of the card, or the figures of one implementation; a missing import is a figure too."""
    gc.collect()  # what an earlier request left, its traceback included
    torch.cuda.empty_cache()
    if request["task"] == "rates":
        say("measuring the card's own rates")
        return {"rates": measure_rates(), "gpu": gpu_facts()}
    benchmark = benchmarks()[request["kernel"]]
    sizes = (benchmark.tiny if request["tiny"] else benchmark.cases)[request["case"]]
    contender = next(one for one in benchmark.contenders(sizes) if one.name == request["contender"])
    try:
        bench = Bench(contender, sizes, contender.inputs or benchmark.inputs)
        return _forward(bench, say) if contender.forward_only else _figures(bench, say)
    except ImportError as error:
        return {"status": "missing", "reason": _one_line(error)}


def _forward(bench: Bench, say: Say) -> dict[str, Any]:
    say("forward")
    seconds = bench.forward()
    return {"forward_seconds": seconds.device, "forward_wall_seconds": seconds.wall}


def _figures(bench: Bench, say: Say) -> dict[str, Any]:
    """The forward pass counts also where the backward pass cannot run."""
    found = _forward(bench, say)
    try:
        say("forward and backward")
        seconds = bench.forward_backward()
        memory = bench.memory()
    except Exception as error:
        torch.cuda.synchronize()  # raises where the device itself failed, and nothing after it can be trusted
        status = "oom" if isinstance(error, torch.cuda.OutOfMemoryError) else "crashed"
        return {**found, "status": status, "reason": f"backward: {_one_line(error)}"}
    return {
        **found,
        "forward_backward_seconds": seconds.device,
        "forward_backward_wall_seconds": seconds.wall,
        "peak_bytes": memory.peak_bytes,
        "written_bytes": memory.written_bytes,
    }


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


if __name__ == "__main__":
    serve(answer)
