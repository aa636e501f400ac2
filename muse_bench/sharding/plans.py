"""How a model is cut for tensor parallelism: the plan that it offers, as styles of torch.distributed.tensor.

A plan maps module names, '*' for any one part of a name, to words: those that transformers uses in its models' plans.
"""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from torch import nn
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel

from muse_bench.errors import UsageError

STYLES: dict[str, Callable[[], ParallelStyle]] = {
    "colwise": lambda: ColwiseParallel(),
    "rowwise": lambda: RowwiseParallel(),
    "colwise_rep": lambda: ColwiseParallel(output_layouts=Replicate()),
    "colwise_gather_output": lambda: ColwiseParallel(output_layouts=Replicate()),
    "embedding_rowwise": lambda: RowwiseParallel(input_layouts=Replicate()),
}


@runtime_checkable
class Planned(Protocol):
    """A model that says how it can be cut, as those of transformers do."""

    tp_plan: Mapping[str, str]


def plan_of(model: nn.Module, name: str) -> dict[str, ParallelStyle]:
    """The plan of the model that is called `name`. Raises: UsageError where it offers none that can be followed."""
    words = model.tp_plan if isinstance(model, Planned) else None
    if not words:
        raise UsageError(f"'{name}' offers no plan for tensor parallelism: choose --fsdp, or a model with a tp_plan")
    unknown = sorted(set(words.values()) - set(STYLES))
    if unknown:
        raise UsageError(f"the plan of '{name}' has {', '.join(unknown)}, which is not known here: choose --fsdp")
    return {pattern: STYLES[word]() for pattern, word in words.items()}
