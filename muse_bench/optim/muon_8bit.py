"""Muon with its momentum in 8 bits; what is no matrix gets a factored Adam. bf16 weights are rounded at random."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from muse_kernels.moment_8bit import direction_8bit, factored_step_8bit_, mean_squares, new_moment, rounded_step_

LEAST_SIDE, MOST_ASPECT = 16, 16
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
RMS_OF_ADAM = 0.2
EPSILON = 1e-8
SEED_STRIDE = 1_000_003  # between parameters, so that no two draw the same random bits for many steps


class Muon8bit(torch.optim.Optimizer):
    """Momentum, orthogonalised for matrices, over its second moment for the rest; about one byte a parameter.

    A matrix (both sides at least 16, one at most 16 times the other) moves by lr * 0.2 * sqrt(longer side) times the
    orthogonal factor of its momentum, so that one rate suits it and the rest. Other tensors move by lr times momentum /
    root of the second moment, which is kept by row and column. The first moment is kept as signed steps of the largest
    value in each block of 256. Weights in bfloat16 are rounded up or down at random, so that small updates count on
    average.
    Everything it counts lies on the device: a step can be captured in a CUDA graph. Scratch of a step: two bfloat16
    copies of a matrix and two of its Gram matrix.
    Source: Jordan et al. 2024 (Muon); Liu et al. 2025, arXiv:2502.16982 (its scale); Shazeer and Stern 2018,
    arXiv:1804.04235 (factored moments); Dettmers et al. 2022, arXiv:2110.02861 (8-bit state).
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-3,
        momentum: float = 0.95,
        beta2: float = 0.99,
        weight_decay: float = 1e-2,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "beta2": beta2, "weight_decay": weight_decay, "capturable": True}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; returns what the closure gives."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state.update(_new_state(parameter, SEED_STRIDE * len(self.state)))
                state["seed"] += 1
                move = _move_matrix if is_matrix(parameter) else _move_other
                move(parameter, parameter.grad.contiguous(), state, group)
        return loss


def is_matrix(parameter: Tensor) -> bool:
    """Whether its momentum is orthogonalised."""
    sides = sorted(parameter.shape)
    return len(sides) == 2 and sides[0] >= LEAST_SIDE and sides[1] <= MOST_ASPECT * sides[0]


def orthogonal(matrix: Tensor) -> Tensor:
    """About U V^T of the matrix U S V^T, by five steps of a quintic Newton-Schulz iteration; overwrites the matrix."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.t() if tall else matrix
    x /= x.norm() + EPSILON  # in place
    a, b, c = NEWTON_SCHULZ
    for _ in range(ITERATIONS):
        gram = x @ x.t()
        gram = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.addmm(x, gram, x, beta=a)
    return x.t() if tall else x


def _new_state(parameter: Tensor, seed: int) -> dict[str, Tensor]:
    steps, scale = new_moment(parameter)
    device = parameter.device
    state = {"first": steps, "first_scale": scale, "seed": torch.full((), seed, dtype=torch.int64, device=device)}
    if not is_matrix(parameter):
        rows, columns = _shape(parameter)
        state["count"] = torch.zeros((), device=device)
        state["second_rows"] = torch.zeros(rows, device=device)
        state["second_columns"] = torch.zeros(columns, device=device)
    return state


def _move_matrix(parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    moment = state["first"], state["first_scale"]
    direction = torch.empty_like(gradient, dtype=torch.bfloat16)
    update = orthogonal(direction_8bit(moment, gradient, momentum=group["momentum"], out=direction))
    del direction
    rate = _scalar(group["lr"], parameter)
    scale = RMS_OF_ADAM * math.sqrt(max(parameter.shape))
    decay = rate * group["weight_decay"]
    rounded_step_(parameter.data, update, rate=rate * scale, decay=decay, seed=state["seed"])


def _move_other(parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    beta1, beta2 = group["momentum"], group["beta2"]
    count, by_row, by_column = state["count"], state["second_rows"], state["second_columns"]
    rows = gradient.view(len(by_row), len(by_column))
    count += 1
    for kept, found in zip((by_row, by_column), mean_squares(rows), strict=True):
        kept.lerp_(found, 1 - beta2)
    mean = by_row.mean().clamp_min_(EPSILON**2)
    corrected = (1 - beta2**count) / (1 - beta1**count).square()
    row_factor = (by_row / corrected).clamp_min_(EPSILON**2).rsqrt_()
    column_factor = (by_column / mean).clamp_min_(EPSILON).rsqrt_()
    rate = _scalar(group["lr"], parameter)
    factored_step_8bit_(
        parameter.data,
        (state["first"], state["first_scale"]),
        gradient,
        (row_factor, column_factor),
        momentum=beta1,
        rate=rate,
        decay=rate * group["weight_decay"],
        seed=state["seed"],
    )


def _shape(parameter: Tensor) -> tuple[int, int]:
    """Rows and columns: the first dimension by the others; of a vector, each number has its own moment."""
    return (parameter.shape[0], parameter[0].numel()) if parameter.dim() > 1 else (parameter.numel(), 1)


def _scalar(value: float | Tensor, parameter: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else torch.full((), value, device=parameter.device)
