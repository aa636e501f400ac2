"""What passes between the runner and its worker processes: one JSON object a line."""

from typing import Any, Literal, NotRequired, TypedDict

TIMING = "timing"  # the phase in which the protocol is over and only time is measured
PRELOAD_VARIABLE = "MUSE_BENCH_PRELOAD"  # modules that a worker imports while it waits for its request
Task = Literal["peaks", "ledger", "predict", "peers", "prove", "weigh", "snapshot"]


class Request(TypedDict):
    """What a worker is asked to do with one case.

    `smallest` asks a prediction for the least memory that does, too. `context_bytes` tells a capped run what to leave
    of the case's limit for the context; without it the run leaves what everything but the allocator holds by then.
    `capped` measures under such a cap; `keeps` has the process keep its model for the next request, if that is for the
    same one. `snapshot` is the file that PyTorch's own snapshot goes to. A process of a sharded
    case is told its `rank`, and the `meeting_point` where the first one listens.
    """

    task: Task
    case: dict[str, Any]
    smallest: NotRequired[bool]
    context_bytes: NotRequired[int | None]
    capped: NotRequired[bool]
    keeps: NotRequired[bool]
    snapshot: NotRequired[str]
    rank: NotRequired[int]
    meeting_point: NotRequired[str]


class Hello(TypedDict):
    """A worker's first line: the process can take a request. `gpus` is how many it sees."""

    kind: Literal["hello"]
    environment: dict[str, Any]
    cuda_unavailable: str | None
    gpus: int


class Phase(TypedDict):
    """What the worker is doing now."""

    kind: Literal["phase"]
    text: str


class Result(TypedDict):
    """How a request ended: `values` when status is ok, else a reason."""

    kind: Literal["result"]
    status: Literal["ok", "oom", "crashed", "usage"]
    reason: str | None
    values: dict[str, Any]
