"""The worker process: reads requests from stdin, runs each, and answers on its own copy of stdout.

A measuring worker serves one request, so that every case has a process of its own; it imports everything and then
waits, touching no GPU until its request arrives. What a model prints goes to stderr, never into the answers.
"""

import contextlib
import ctypes
import dataclasses
import importlib
import json
import os
import platform
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import torch

import muse_bench
from muse_bench.config import Case
from muse_bench.errors import MuseBenchError, UsageError
from muse_bench.execution.protocol import PRELOAD_VARIABLE, TIMING, Hello, Phase, Request, Result
from muse_bench.execution.settings import allocator_config, allocator_setting
from muse_bench.predict.allocator import OutOfMemory
from muse_bench.timeline import profile

PR_SET_PDEATHSIG = 1  # linux/prctl.h
ADVICE = " If reserved but unallocated memory is large"  # how PyTorch goes on when memory is short

Say = Callable[[str], None]

Answer = Callable[[Any, Say], dict[str, Any]]  # a request's values; how a request fails is told by what it raises


def main() -> None:
    """Serves requests about cases until stdin ends."""
    serve(_answer_case)


def serve(answer: Answer) -> None:
    """Says what this process can do, then answers a request a line until stdin ends."""
    end_with_parent()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    unavailable, gpus = _cuda_unavailable(), torch.cuda.device_count()
    _send(answers, Hello(kind="hello", environment=_environment(), cuda_unavailable=unavailable, gpus=gpus))
    for module in filter(None, os.environ.get(PRELOAD_VARIABLE, "").split(",")):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    for line in sys.stdin:
        _send(answers, _result(answer, json.loads(line), lambda text: _send(answers, Phase(kind="phase", text=text))))


def end_with_parent() -> None:
    """Has the kernel kill this process when the runner ends, however that ends; Linux alone can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _result(answer: Answer, request: Any, say: Say) -> Result:
    try:
        return Result(kind="result", status="ok", reason=None, values=answer(request, say))
    except UsageError as error:
        return Result(kind="result", status="usage", reason=str(error), values={})
    except (torch.cuda.OutOfMemoryError, OutOfMemory) as error:
        reason = _one_line(error).partition(ADVICE)[0]
        return Result(kind="result", status="oom", reason=reason, values={})
    except MuseBenchError as error:
        return Result(kind="result", status="crashed", reason=str(error), values={})
    except (Exception, SystemExit) as error:
        traceback.print_exc()  # to stderr, which the runner keeps
        return Result(kind="result", status="crashed", reason=_one_line(error), values={})


def _answer_case(request: Request, say: Say) -> dict[str, Any]:
    case = Case.from_json(request["case"])
    with _group(case, request):
        return TASKS[request["task"]](case, say, request)


def _group(case: Case, request: Request) -> contextlib.AbstractContextManager[None]:
    """That of a sharded case's processes, which `rank` and `meeting_point` are told of."""
    if "meeting_point" not in request:
        return contextlib.nullcontext()
    from muse_bench.sharding.group import Seat, joined

    return joined(Seat(request["rank"], case.ranks, request["meeting_point"]))


def _peaks(case: Case, say: Say, request: Request) -> dict[str, Any]:
    from muse_bench.measure.shared import measure_shared

    def before_timing() -> None:
        say(TIMING)
        sys.stdin.readline()  # the answer: the device is no longer sampled, and processes that wait are still

    how = {name: bool(request.get(name)) for name in ("capped", "keeps")}
    return {**dataclasses.asdict(measure_shared(case, say, before_timing, **how)), "gpu": gpu_facts()}


def _ledger(case: Case, say: Say, _: Request) -> dict[str, Any]:
    from muse_bench.measure.history import record_case

    trace = record_case(case, say)
    say("ledger")
    return dataclasses.asdict(profile(trace, first_steady_step=case.first_steady_step, config=allocator_config()))


def _snapshot(case: Case, say: Say, request: Request) -> dict[str, Any]:
    from muse_bench.measure.history import write_snapshot

    write_snapshot(case, Path(request["snapshot"]), say)
    return {}


def _predict(case: Case, say: Say, request: Request) -> dict[str, Any]:
    from muse_bench.execution.prediction import predicted_of_ranks, predicted_values

    torch.set_num_threads(1)  # what is computed is small: threads would mostly wait for one another, on a busy machine
    if case.sharding is not None:
        return predicted_of_ranks(case, say)
    return predicted_values(case, say, smallest=bool(request.get("smallest")))[0]


def _prove(case: Case, say: Say, request: Request) -> dict[str, Any]:
    from muse_bench.measure.capped import run_capped

    return dataclasses.asdict(run_capped(case, request.get("context_bytes"), say))


def _peers(case: Case, say: Say, _: Request) -> dict[str, Any]:
    from muse_bench.calibration.peers import ask_peers

    return dataclasses.asdict(ask_peers(case, say))


def _weigh(case: Case, say: Say, _: Request) -> dict[str, Any]:
    from muse_bench.predict.weigh import weigh

    return dataclasses.asdict(weigh(case))


TASKS: dict[str, Callable[[Case, Say, Request], dict[str, Any]]] = {
    "peaks": _peaks,
    "ledger": _ledger,
    "predict": _predict,
    "peers": _peers,
    "prove": _prove,
    "weigh": _weigh,
    "snapshot": _snapshot,
}


def _environment() -> dict[str, Any]:
    return {
        "muse_bench": muse_bench.__version__,
        "torch": torch.__version__,
        "triton": _triton_version(),
        "cuda": torch.version.cuda,
        "allocator_config": allocator_setting(),
        "cublas_workspace_config": os.environ.get("CUBLAS_WORKSPACE_CONFIG", ""),
        "python": platform.python_version(),
        "platform": platform.system().lower(),
    }


def gpu_facts() -> dict[str, Any]:
    """What the environment says of the GPU that this process runs on."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "gpu": properties.name,
        "gpu_total_bytes": properties.total_memory,
        "compute_capability": f"{properties.major}.{properties.minor}",
    }


def _triton_version() -> str | None:
    import importlib.metadata

    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return None


def _cuda_unavailable() -> str | None:
    """Why nothing can be measured here; None when it can. Counts devices without creating a context."""
    if torch.version.cuda is None:
        return f"this build of torch ({torch.__version__}) has no CUDA"
    if torch.cuda.device_count() == 0:
        return "no CUDA device is visible"
    return None


def _send(stream: TextIO, message: Any) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:400]


if __name__ == "__main__":
    main()
