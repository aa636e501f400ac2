"""What a worker answers when a case fails."""

import torch

from muse_bench.execution.worker import _result


def test_memory_that_is_short_is_told_without_advice_that_breaks_off() -> None:
    """PyTorch's message is longer than a line, and goes on about settings of the allocator."""
    told = "CUDA out of memory. Tried to allocate 2.00 MiB. "

    def answer(request: object, say: object) -> dict[str, object]:
        raise torch.cuda.OutOfMemoryError(told + "If reserved but unallocated memory is large try setting PYTORCH_")

    result = _result(answer, None, print)
    assert (result["status"], result["reason"]) == ("oom", f"OutOfMemoryError: {told.strip()}")
