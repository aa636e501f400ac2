"""Adam in about a byte a value: for tables, vectors and tensors of more dimensions, beside a method for matrices."""

from typing import Any

import torch
from torch import Tensor

from muse_kernels.moment_8bit import FactoredState, Rates, SmallState, factored_step_8bit_, new_moment, small_step_

SMALL = 4096  # values of a parameter whose moments are not worth compressing
EPSILON = 1e-8


def new_state(parameter: Tensor) -> dict[str, Tensor]:
    """Zeros: moments in float32 up to 4,096 values, else the first in 8 bits, the second by row and by column."""
    device = parameter.device
    count = torch.zeros((), dtype=torch.int64, device=device)
    if parameter.numel() <= SMALL:
        first, second = (torch.zeros(parameter.shape, device=device) for _ in range(2))
        return {"first": first, "second": second, "count": count}
    steps, scale = new_moment(parameter)
    rows, columns = (torch.zeros(size, device=device) for size in (parameter.shape[0], parameter[0].numel()))
    return {"first": steps, "first_scale": scale, "count": count, "second_rows": rows, "second_columns": columns}


def rates_of(group: dict[str, Any], salt: int, scale: float = 1.0) -> Rates:
    """The rates of an optimizer's group, for a parameter of this salt."""
    return Rates(
        momentum=group["momentum"],
        beta2=group["beta2"],
        scale=scale,
        decay=group["weight_decay"],
        salt=salt,
        epsilon=EPSILON,
    )


def move(parameter: Tensor, state: dict[str, Any], lr: Tensor, rates: Rates) -> None:
    """One step of a parameter with a gradient and a state of `new_state`, which it counts."""
    assert parameter.grad is not None
    gradient, data, count = parameter.grad.contiguous(), parameter.data, state["count"]
    if "second" in state:
        small_step_(data, gradient, SmallState(state["first"], state["second"], count), lr=lr, rates=rates)
        return
    moment = state["first"], state["first_scale"]
    factored = FactoredState(moment, state["second_rows"], state["second_columns"], count)
    factored_step_8bit_(data, gradient, factored, lr=lr, rates=rates)
