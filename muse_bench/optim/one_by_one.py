"""What optimizers that move each parameter by itself have in common."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class OneByOne(torch.optim.Optimizer):
    """Each parameter that has a gradient moves by itself, in the order of the groups."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; returns what the closure gives."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)
        return loss

    @abstractmethod
    def _move(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        """Moves a parameter along its gradient, at its group's rates."""
