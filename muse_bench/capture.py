"""A step as a CUDA graph: run a few times as it is, then captured once and replayed, without Python in between."""

import contextlib
from collections.abc import Callable, Iterator

import torch

WARM_STEPS = 3  # the optimizer's state and the libraries' handles appear; the last one shows the steady peak


class GraphedStep:
    """Calls `run` on a stream of its own, captures it after three calls, and replays it from then on.

    What the capture allocates is held by the graph: its peak is that of a step, and stays reserved.
    """

    def __init__(self, run: Callable[[], None]) -> None:
        self._run, self._calls = run, 0
        self._stream = torch.cuda.Stream()
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """One step. Raises: RuntimeError for one that a graph cannot hold."""
        if self._graph is not None:
            self._graph.replay()
            return
        if self._calls < WARM_STEPS:
            self._calls += 1
            with aside(self._stream):
                self._run()
            return
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # else what the steps before left would stay reserved beside the graph's memory
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self._run()
        self._graph = graph
        graph.replay()


@contextlib.contextmanager
def aside(side: torch.cuda.Stream) -> Iterator[None]:
    """Another stream, as PyTorch asks for what runs before a capture; it and the current one wait for each other."""
    current = torch.cuda.current_stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        yield
    current.wait_stream(side)
