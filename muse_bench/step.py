"""A step of someone's own, with what is known of the tensors that it uses. Imports no torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One step and what it works on: whatever is named here has its own line in the ledger.

    `step` is called once for each step, and should leave nothing alive but weights, gradients and optimizer state.
    Several models are told apart by their place: '0.encoder', '1.head'. `inputs` are the tensors of the batch.
    """

    step: "Callable[[], object]"
    model: "nn.Module | Sequence[nn.Module]"
    optimizer: "Optimizer | None" = None
    inputs: "Sequence[Tensor]" = ()
