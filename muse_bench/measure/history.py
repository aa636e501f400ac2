"""An instrumented run on CUDA: the allocator's own history, each allocation with the operation that made it.

It runs apart from the run that gives the headline numbers, so that watching cannot change them.
"""

import collections
import contextlib
import dataclasses
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from muse_bench.config import Case
from muse_bench.observe import Observer, observe
from muse_bench.record import write_whole
from muse_bench.stored import held
from muse_bench.timeline import Event, Label, Trace
from muse_bench.workload import Build, Workload, build_workload

HISTORY_ENTRIES = 5_000_000
WORKSPACE = Label("workspace", "(libraries)")


class HistoryObserver(Observer):
    """Marks the allocator's history with the index of the running operation, and remembers where tensors lie."""

    def __init__(self) -> None:
        super().__init__()
        self.sightings: list[tuple[int, int, Label]] = []  # (operation, address, label)

    def begin_op(self, name: str) -> int:
        index = super().begin_op(name)
        torch.cuda.memory._set_memory_metadata(str(index))
        return index

    def label(self, tensor: Tensor, label: Label) -> None:
        tensor = held(tensor)
        if tensor.is_cuda:
            self.sightings.append((len(self.trace.ops) - 1, tensor.untyped_storage().data_ptr(), label))


def record_case(
    case: Case,
    say: Callable[[str], None],
    build: Build = build_workload,
    *,
    keeps_earlier: bool = False,
) -> Trace:
    """Runs the case's first steps under the history and returns what they allocated, workspaces told apart.

    With `keeps_earlier` also what was there before, which a step that was built earlier works on.
    """
    device = torch.device("cuda", torch.cuda.current_device())
    torch.cuda.init()
    observer = HistoryObserver()
    with recorded_history():
        earlier = live_blocks() if keeps_earlier else []
        work = observe(case, device, observer, case.traced_steps, say, build)
        torch.cuda.synchronize()
        return finish(observer, work, earlier)


def write_snapshot(case: Case, file: Path, say: Callable[[str], None]) -> None:
    """Runs the case's first steps unobserved under a history with stacks, and writes it for PyTorch's visualiser."""
    say("building")
    with recorded_history(stacks=True):
        work = build_workload(dataclasses.replace(case, execution="eager"), torch.device("cuda"))
        for step in range(case.traced_steps):
            say(f"step {step + 1} of {case.traced_steps}")
            work.step()
        torch.cuda.synchronize()
        write_whole(file, pickle.dumps(torch.cuda.memory._snapshot()))


@contextlib.contextmanager
def recorded_history(*, stacks: bool = False) -> Iterator[None]:
    """Inside, the allocator keeps its history, with the stacks of who allocated if wanted.

    Not of who freed: with those too, autograd of torch 2.11 failed with an exception that was lost on the way.
    """
    context = "alloc" if stacks else None
    torch.cuda.memory._record_memory_history("all", context=context, stacks="python", max_entries=HISTORY_ENTRIES)
    try:
        yield
    finally:
        torch.cuda.memory._record_memory_history(None)


def live_blocks() -> list[tuple[int, int]]:
    """The address and size in bytes of all that is allocated on the current device."""
    device = torch.cuda.current_device()
    return [
        (block["address"], block["requested_size"])
        for segment in torch.cuda.memory._snapshot()["segments"]
        if segment["device"] == device
        for block in segment["blocks"]
        if block["state"] == "active_allocated"
    ]


def finish(observer: HistoryObserver, work: Workload, earlier: Sequence[tuple[int, int]] = ()) -> Trace:
    """Frees the libraries' workspaces as the very last thing: what that frees is what they held."""
    observer.phase = "cleared"
    clearing = observer.begin_op("clear workspaces")
    torch._C._cuda_clearCublasWorkspaces()
    snapshot = torch.cuda.memory._snapshot()
    del work  # alive until here, so that its memory was not freed by the clearing operation
    return trace_of(observer, snapshot["device_traces"][torch.cuda.current_device()], clearing, earlier)


def trace_of(
    observer: HistoryObserver,
    entries: Iterable[dict[str, Any]],
    clearing: int,
    earlier: Sequence[tuple[int, int]] = (),
) -> Trace:
    """The history's entries as events; what was sighted at an address, and what the clearing freed, as labels.

    `earlier` are the addresses and sizes of what was there before the history, all of it from its first operation on.
    """
    trace = observer.trace
    sightings = collections.deque(observer.sightings)
    live = {address: -number for number, (address, _) in enumerate(earlier, 1)}  # address -> key
    latest = dict(live)  # also when it is freed already: what was sighted last may be freed before another operation
    trace.events += [Event(True, live[address], size, 0) for address, size in earlier]

    def apply_sightings(before: int) -> None:
        while sightings and sightings[0][0] < before:
            _, address, label = sightings.popleft()
            if address in latest:
                trace.labels[latest[address]] = label

    key = op = 0
    for entry in entries:
        if entry["action"] == "segment_alloc":
            trace.segments.append((entry["addr"], entry["size"]))
        if entry["action"] not in ("alloc", "free_completed"):
            continue
        op = max(op, int(entry.get("user_metadata") or op))  # metadata is of a thread, and backward has another
        apply_sightings(op)
        if entry["action"] == "alloc":
            key += 1
            live[entry["addr"]] = latest[entry["addr"]] = key
            trace.events.append(Event(True, key, entry["size"], op, entry.get("stream", 0)))
        elif (freed := live.pop(entry["addr"], None)) is not None:
            if op >= clearing:
                trace.labels[freed] = WORKSPACE
            trace.events.append(Event(False, freed, 0, op))
    apply_sightings(len(trace.ops))
    return trace
