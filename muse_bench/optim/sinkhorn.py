"""Sinkhorn descent: a matrix moves along its gradient with rows and columns brought to one size, and keeps no state."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from muse_bench.optim.factored_adam import move, new_state, rates_of
from muse_bench.optim.one_by_one import OneByOne
from muse_bench.stored import Int8Parameter
from muse_kernels.int8_step import Int8Rates, int8_step_
from muse_kernels.moment_8bit import rounded_step_

LEAST_SIDE = 16
RMS_OF_ADAM = 0.2
LEAST_SIZE = 2.0**-63  # the root of the smallest float32: squares of less would vanish


class Sinkhorn(OneByOne):
    """A matrix moves by lr * 0.2 times its gradient, each row and then each column of it divided by its size.

    So all inputs count alike, and outputs nearly so, where a gradient as it is moves a few of them and leaves the rest.
    The factor is the size that Adam's moves have as a rule, so that one rate suits all. A matrix has no state but a
    count. Tables, which have a side of `vocab_size`, get a factored Adam with 8-bit momentum, for most of their rows
    are rare words', whose gradients of one step are mostly noise. So do vectors, matrices with a side below 16 and
    tensors of more dimensions; up to 4,096 values, moments are kept as they are. A matrix in INT8 is never a table.
    Weights in bfloat16 and in INT8 are rounded up or down at random; there is no other copy of them. Gradients of
    matrices are overwritten. Everything it counts lies on the device: a step can be captured in a CUDA graph.
    Source: Scetbon et al. 2025, arXiv:2502.06742 (which goes over rows and columns five times); Shazeer and Stern 2018,
    arXiv:1804.04235 (factored moments); Dettmers et al. 2022, arXiv:2110.02861 (8-bit state); Zhang et al. 2024,
    arXiv:2407.08296 (INT8 weights).
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        vocab_size: int | None = None,
        lr: float = 1e-3,
        momentum: float = 0.95,
        beta2: float = 0.99,
        weight_decay: float = 1e-2,
    ) -> None:
        self._vocab_size = vocab_size
        defaults = {"lr": lr, "momentum": momentum, "beta2": beta2, "weight_decay": weight_decay, "capturable": True}
        super().__init__(params, defaults)

    def keeps_no_state(self, parameter: Tensor) -> bool:
        """Whether it moves along its balanced gradient."""
        if isinstance(parameter, Int8Parameter):
            return True
        return parameter.dim() == 2 and min(parameter.shape) >= LEAST_SIDE and self._vocab_size not in parameter.shape

    def _move(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        state, lr, stateless = self.state[parameter], group["lr"], self.keeps_no_state(parameter)
        lr = lr if isinstance(lr, Tensor) else torch.full((), lr, device=parameter.device)
        if not state:
            count = torch.zeros((), dtype=torch.int64, device=parameter.device)
            state.update({"count": count} if stateless else new_state(parameter), salt=len(self.state))
        if stateless:
            _along_balanced(parameter, state, lr, group)
        else:
            move(parameter, state, lr, rates_of(group, state["salt"]))


def balanced_(gradient: Tensor) -> Tensor:
    """A matrix with each row, then each column divided by its root mean square; those of zeros stay zeros. Overwrites.

    Scratch: some vectors, and what the library's reductions over rows take.
    """
    for dim in (1, 0):
        size = torch.linalg.vector_norm(gradient, dim=dim, keepdim=True, dtype=torch.float32)
        gradient.div_(size.div_(gradient.shape[dim] ** 0.5).clamp_min_(LEAST_SIZE))
    return gradient


def _along_balanced(parameter: nn.Parameter, state: dict[str, Any], lr: Tensor, group: dict[str, Any]) -> None:
    assert parameter.grad is not None
    state["count"] += 1
    update, rates = balanced_(parameter.grad), rates_of(group, state["salt"], RMS_OF_ADAM)
    if isinstance(parameter, Int8Parameter):
        int8_rates = Int8Rates(scale=rates.scale, decay=rates.decay, salt=rates.salt)
        int8_step_(*parameter.stored, update, state["count"], lr=lr, rates=int8_rates)
    else:
        rounded_step_(parameter.data, update, state["count"], lr=lr, rates=rates)
