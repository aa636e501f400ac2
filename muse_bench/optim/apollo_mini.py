"""APOLLO-Mini: Adam seen through a random projection to rank 1 says how far each matrix moves along its gradient."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from muse_bench.optim.one_by_one import OneByOne
from muse_bench.optim.random_signs import random_signs
from muse_bench.stored import Int8Parameter
from muse_kernels.int8_step import Int8Rates, int8_step_
from muse_kernels.moment_8bit import Rates, rounded_step_

LEAST_SIDE = 16  # below it, both moments of a matrix are kept whole
TINY = torch.finfo(torch.float32).tiny


class ApolloMini(OneByOne):
    """A matrix moves along its gradient G, by lr * sqrt(shorter side) * |A| / |R| times it, plus weight decay.

    R is G with its shorter side projected on random signs, and A what Adam makes of R: two moments of the longer side's
    length are all the state there is. The signs follow from a count and are drawn anew every `redraw` steps. The root
    makes up for A's having one row where G has many, so that rates that suit Adam suit this. From one step to the next,
    the size of a matrix's move grows by a factor of `growth` at most. Vectors, and matrices with a side below 16, have
    Adam's moments whole, in float32.
    Weights in bfloat16 and in INT8 are rounded up or down at random; there is no other copy of them. Gradients of
    matrices are overwritten. Everything it counts lies on the device: a step can be captured in a CUDA graph.
    Source: Zhu et al. 2024, arXiv:2412.05270 (its projection is Gaussian); Achlioptas 2003 (random signs); Zhang et al.
    2024, arXiv:2407.08296 (INT8 weights).
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        redraw: int = 200,
        growth: float = 1.01,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "redraw": redraw}
        super().__init__(params, {**defaults, "growth": growth, "capturable": True})

    def _move(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        state, lr = self.state[parameter], group["lr"]
        lr = lr if isinstance(lr, Tensor) else torch.full((), lr, device=parameter.device)
        if not state:
            state.update(_new_state(parameter), salt=len(self.state))
        state["count"] += 1
        update = _along_gradient(parameter, state, group) if is_projected(parameter) else _adam(parameter, state, group)
        decay, salt = group["weight_decay"], state["salt"]
        if isinstance(parameter, Int8Parameter):
            int8_step_(*parameter.stored, update, state["count"], lr=lr, rates=Int8Rates(decay=decay, salt=salt))
        else:
            rounded_step_(parameter.data, update, state["count"], lr=lr, rates=Rates(decay=decay, salt=salt))


def is_projected(parameter: Tensor) -> bool:
    """Whether its moments are those of its projection."""
    return parameter.dim() == 2 and min(parameter.shape) >= LEAST_SIDE


def _new_state(parameter: Tensor) -> dict[str, Any]:
    device = parameter.device
    shape = (max(parameter.shape),) if is_projected(parameter) else parameter.shape
    state = {name: torch.zeros(shape, device=device) for name in ("first", "second")}
    state["count"] = torch.zeros((), dtype=torch.int64, device=device)
    if is_projected(parameter):
        state["size"] = torch.zeros((), device=device)  # of the last move, before the rate
    return state


def _along_gradient(parameter: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """The gradient, times what Adam does to the size of its projection."""
    gradient = parameter.grad
    assert gradient is not None
    rows, columns = gradient.shape
    draw = torch.div(state["count"] - 1, group["redraw"], rounding_mode="floor")
    signs = random_signs(min(rows, columns), draw, state["salt"]).to(gradient.dtype)
    projected = (gradient @ signs if rows >= columns else gradient.t() @ signs).float()
    size = torch.linalg.vector_norm(gradient, dtype=torch.float32)
    adams = torch.linalg.vector_norm(_follow(projected, state, group))
    wanted = adams / torch.linalg.vector_norm(projected).clamp_min(TINY) * size
    last = state["size"]
    allowed = torch.where(last > 0, torch.minimum(wanted, last * group["growth"]), wanted)
    last.copy_(allowed)
    return gradient.mul_(allowed / size.clamp_min(TINY) * math.sqrt(min(rows, columns)))


def _adam(parameter: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    assert parameter.grad is not None
    return _follow(parameter.grad.float(), state, group)


def _follow(gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Adam's direction, from moments that follow this gradient."""
    beta1, beta2 = group["betas"]
    first, second, count = state["first"], state["second"], state["count"]
    first.lerp_(gradient, 1 - beta1)
    second.lerp_(gradient.square(), 1 - beta2)
    root = (second / (1 - beta2**count)).sqrt_()
    direction: Tensor = (first / (1 - beta1**count)).div_(root.add_(group["eps"]))
    return direction
