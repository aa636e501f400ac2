"""The compiler is not imported for a prediction, and is there for whoever asks."""

import subprocess
import sys

PROGRAM = """
import sys
import torch
import torch.utils.checkpoint
from muse_bench.predict.compiler import deferred_compiler

with deferred_compiler():
    weight = torch.zeros(2, 2, requires_grad=True)
    optimizer = torch.optim.AdamW([weight])
    torch.utils.checkpoint.checkpoint(torch.sum, weight, use_reentrant=False).backward()
    optimizer.step()
    optimizer.zero_grad()
print("torch._dynamo" in sys.modules)
import torch.distributed.fsdp  # as transformers does, which a stand-in left behind would break

with deferred_compiler():
    print(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item())
print(torch._dynamo.config.verbose)
print(type(torch._dynamo).__name__, "torch._dynamo.eval_frame" in sys.modules)
"""


def test_a_step_does_without_the_compiler_and_compiling_loads_it() -> None:
    """It costs a second, half of a prediction; a model that compiles a part of itself must still find it."""
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "2.0", "False", "module", "True"]
