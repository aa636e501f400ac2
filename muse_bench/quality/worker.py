"""The worker process of the quality bench: trains one model for each request."""

import dataclasses
import gc
import time
from collections.abc import Callable
from typing import Any

import torch

from muse_bench.execution.worker import gpu_facts, serve
from muse_bench.quality.step import CannotCapture
from muse_bench.quality.training import train
from muse_bench.quality.trial import Trial

SAY_SECONDS = 0.2
Say = Callable[[str], None]


def answer(request: Any, say: Say) -> dict[str, Any]:
    """The figures of one trial. A step that no graph can hold is trained without, and a note says so."""
    trial = Trial.from_json(request["trial"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    refused = "there is no CUDA device" if trial.graphs and device.type != "cuda" else None
    values: dict[str, Any] = {}
    if refused is None:
        try:
            values = train(trial, device, _calmly(say))
        except CannotCapture as error:
            refused = str(error)
    if refused is not None:
        gc.collect()  # the model of the attempt, which the exception held until here
        values = train(dataclasses.replace(trial, graphs=False), device, _calmly(say))
        values["notes"] = [*values.get("notes", ()), f"trained without CUDA graphs: {refused}"]
    return {**values, **({"gpu": gpu_facts()} if device.type == "cuda" else {})}


def _calmly(say: Say) -> Say:
    """Says no more than a few things a second."""
    last = 0.0

    def seldom(text: str) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= SAY_SECONDS:
            last = now
            say(text)

    return seldom


if __name__ == "__main__":
    serve(answer)
