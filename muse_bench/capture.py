"""A step as a CUDA graph: run a few times as it is, then captured once and replayed, without Python in between."""

from collections.abc import Callable

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
            self._aside()
            return
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # else what the steps before left would stay reserved beside the graph's memory
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self._run()
        self._graph = graph
        graph.replay()

    def _aside(self) -> None:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            self._run()
        current.wait_stream(self._stream)
