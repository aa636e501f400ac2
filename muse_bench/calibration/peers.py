"""What other predictors say of a case, asked as well as they can be: torch's MemTracker, accelerate's estimate-memory.

A predictor that fails or has nothing to say of a case gives no answer, with its reason.
"""

import dataclasses
import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules import module as nn_module
from torch.utils._python_dispatch import TorchDispatchMode

from muse_bench.config import Case
from muse_bench.optim import build_optimizer
from muse_bench.workload import Workload, build_workload

ADAM = ("adamw", "adamw-fused")
# accelerate knows three precisions, and gives bfloat16 the figures of float16.
ACCELERATE_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "float16"}
SCALAR = torch.ops.aten._local_scalar_dense.default


@dataclass(frozen=True, slots=True)
class Answers:
    """The steady peak in bytes that each predictor expects, None without an answer, and the reasons of those."""

    peers: dict[str, int | None]
    notes: tuple[str, ...]


class NoAnswerError(Exception):
    """The predictor has nothing to say of this case; the message says why."""


def ask_peers(case: Case, say: Callable[[str], None]) -> Answers:
    """Builds the case on the CPU and asks every predictor about it.

    Raises: UsageError for a user's factory that fails.
    """
    say("building for the other predictors")
    work = build_workload(case, torch.device("cpu"))
    asked: dict[str, Callable[[], int]] = {
        "mem-tracker": lambda: mem_tracker_bytes(work, torch.device("cpu")),
        "accelerate": lambda: accelerate_bytes(work),
    }
    if torch.cuda.is_available():
        asked["mem-tracker-cuda"] = lambda: mem_tracker_bytes(work, torch.device("cuda", 0))
    peers: dict[str, int | None] = {}
    notes: list[str] = []
    for name, ask in asked.items():
        say(f"asking {name}")
        try:
            peers[name] = ask()
        except Exception as error:
            peers[name] = None
            notes.append(f"{name}: no answer: {_one_line(error)}")
    return Answers(peers, tuple(notes))


def mem_tracker_bytes(work: Workload, device: torch.device) -> int:
    """The peak that MemTracker sees in the second step, when the optimizer has its state, on fake tensors.

    It tracks one call of a model at a time and refuses a second, so its statistics by module are reset before it; the
    totals stay. What a step asks of contents is answered as a prediction answers it.
    """
    from torch.distributed._tools.mem_tracker import MemTracker

    mode = FakeTensorMode()
    faked = _faked(work, mode, device)
    tracker = MemTracker()
    owned = (faked.model, faked.optimizer, faked.x, faked.targets)
    tracker.track_external(*(one for one in owned if one is not None))

    def allow_another_call(module: nn.Module, _: Any) -> None:
        calls = tracker._mod_tracker
        if module in tracker.memory_tracking and calls.parents == {"Global"} and not calls.is_bw:
            tracker.reset_mod_stats()

    handle = nn_module.register_module_forward_pre_hook(allow_another_call)
    try:
        contents = _Contents()  # type: ignore[no-untyped-call]
        with warnings.catch_warnings(action="ignore"), mode, contents:
            for _ in range(1 if work.case.single_step else 2):
                tracker.reset_mod_stats()
                with tracker:  # entering begins a new peak
                    faked.step()
    finally:
        handle.remove()
    peak = tracker.get_tracker_snapshot("peak")
    return int(sum(parts["Total"] for place, parts in peak.items() if place.type == device.type))


def accelerate_bytes(work: Workload) -> int:
    """What `accelerate estimate-memory` prints: the weights for inference, and training with Adam.

    Raises: NoAnswerError without accelerate, and for what it does not estimate.
    """
    try:
        estimate = importlib.import_module("accelerate.commands.estimate")
    except ImportError as error:
        raise NoAnswerError(f"accelerate is not installed: {error}") from error
    case = work.case
    if case.mode == "forward-backward":
        raise NoAnswerError("it estimates training with Adam and loading for inference, not forward-backward")
    if case.mode != "train":
        return int(estimate.calculate_maximum_sizes(work.model)[0])
    if case.optimizer not in ADAM:
        raise NoAnswerError(f"it estimates training with Adam, not {case.optimizer}")
    faked = _faked(work, FakeTensorMode(), torch.device("cpu"), torch.float32)  # it begins from the model in float32
    total, _ = estimate.calculate_maximum_sizes(faked.model)
    return int(max(estimate.estimate_training_usage(total, ACCELERATE_DTYPES[case.dtype]).values()))


class _Contents(TorchDispatchMode):
    """Answers what a model asks of a single element: no, or the number 1, as `predict.values` does."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is SCALAR and args[0].dtype is torch.bool:
            return False
        if func is SCALAR and args[0].is_floating_point():
            return 1.0
        return func(*args, **(kwargs or {}))


def _faked(work: Workload, mode: FakeTensorMode, device: torch.device, dtype: torch.dtype | None = None) -> Workload:
    """The workload with fake tensors on the device in place of its own; its model is changed where it stands.

    Building under the mode would be simpler, but `Module.to` cannot swap fake parameters.
    """
    made: dict[int, Tensor] = {}  # by identity, so that tied parameters stay tied

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            wanted = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
            with mode:
                empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=wanted, device=device)
            trained = isinstance(tensor, nn.Parameter)
            made[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if trained else empty
        return made[id(tensor)]

    kept = []  # an identity is only known while its tensor lives
    for module in work.model.modules():
        places: tuple[dict[str, Any], ...] = (module._parameters, module._buffers, vars(module))
        for place in places:
            for name, value in list(place.items()):
                if isinstance(value, Tensor):
                    kept.append(value)
                    place[name] = fake(value)
    optimizer = (
        None
        if work.optimizer is None
        else build_optimizer(work.case.optimizer, work.model.parameters(), work.case.vocab_size)
    )
    for group in () if optimizer is None else optimizer.param_groups:
        if group.get("foreach", False) is None and not group.get("fused"):
            group["foreach"] = True  # what an optimizer chooses by itself on CUDA, and not on the CPU
    targets = None if work.targets is None else fake(work.targets)
    return dataclasses.replace(work, optimizer=optimizer, x=fake(work.x), targets=targets)


def _one_line(error: BaseException) -> str:
    name = "" if isinstance(error, NoAnswerError) else f"{type(error).__name__}: "
    return " ".join(f"{name}{error}".split())[:300]
