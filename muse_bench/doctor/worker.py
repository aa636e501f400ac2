"""The doctor's worker process: uses the GPU once, and checks one kernel in one dtype for each request."""

import importlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from muse_bench.errors import HostMemoryShort
from muse_bench.execution.worker import gpu_facts, serve

SEEN_SECONDS = 0.1  # for which the memory is held, so that NVML's polls see it
TOUCHED_BYTES = 32 << 20
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def answer(request: Any, say: Callable[[str], None]) -> dict[str, Any]:
    """The GPU's facts, its link, whether a package imports, the list of checks, or what one check found."""
    if request["task"] == "gpu":
        return _use_gpu()
    if request["task"] == "link":
        return _link()
    if request["task"] == "import":
        return {"reason": _why_not(request["package"])}
    from muse_kernels.self_check import ROWS

    if request["task"] == "list":
        names = {dtype: name for name, dtype in DTYPES.items()}
        return {"checks": [[name, names[dtype]] for name, row in ROWS.items() for dtype in row.dtypes]}
    return _check(request)


def _use_gpu() -> dict[str, Any]:
    """Computes something: a build of torch without code for this GPU fails here, not before."""
    ones = torch.ones(TOUCHED_BYTES // 4, device="cuda")
    total = int(ones.sum().item())
    if total != ones.numel():
        raise ArithmeticError(f"{ones.numel()} ones add up to {total}")
    time.sleep(SEEN_SECONDS)
    return {**gpu_facts(), "devices": torch.cuda.device_count()}


def _link() -> dict[str, Any]:
    """With memory that is pinned as that of models in host memory is."""
    from muse_bench.measure.link import BUFFER_BYTES, link_rates
    from muse_bench.streaming.memory import HostMemory

    device = torch.device("cuda", torch.cuda.current_device())
    with HostMemory(device) as memory:
        try:
            page = memory.take(BUFFER_BYTES)
        except HostMemoryShort as error:
            return {"rates": None, "pinned_bytes": None, "refused": str(error)}
        rates = link_rates([page], device)
    return {"rates": None if rates is None else asdict(rates), "pinned_bytes": BUFFER_BYTES, "refused": None}


def _why_not(name: str) -> str | None:
    """Why a package does not import; None when it does."""
    try:
        importlib.import_module(name)
    except Exception as error:  # a broken package may raise anything
        return _one_line(error)
    return None


def _check(request: Any) -> dict[str, Any]:
    """The worst figure; a kernel that raises is a finding too, unless it took the device with it."""
    from muse_kernels.self_check import check

    try:
        outcome = check(request["operation"], request["device"], DTYPES[request["dtype"]])
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:
        if request["device"] == "cuda":
            torch.cuda.synchronize()  # raises where the device itself failed, and nothing after it can be trusted
        return {"status": "crashed", "reason": _one_line(error)}
    worst = outcome.worst
    found = {"worst": worst.what, "worst_share": worst.share if math.isfinite(worst.share) else None}
    if outcome.passed:
        return {"status": "ok", **found}
    wrong = [f"{figure.what} {_excess(figure.share)}" for figure in outcome.figures if not figure.passed]
    return {"status": "wrong", **found, "reason": "; ".join(wrong)}


def _excess(share: float) -> str:
    return f"errs {share:.3g} times what is allowed" if math.isfinite(share) else "is not finite"


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


if __name__ == "__main__":
    serve(answer)
