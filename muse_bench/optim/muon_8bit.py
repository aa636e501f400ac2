"""Muon with its momentum in 8 bits; what is no matrix gets a factored Adam. bf16 weights are rounded at random."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from muse_bench.optim.factored_adam import move, new_state, rates_of
from muse_kernels.moment_8bit import combine_, direction_8bit_, new_moment, rounded_step_

LEAST_SIDE, MOST_ASPECT = 16, 16
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
TOGETHER = 4  # matrices that are orthogonalised at once: small products leave most of a GPU idle
MOST_TOGETHER = 1 << 22  # their values: larger products fill it
RMS_OF_ADAM = 0.2
EPSILON = 1e-8


class Muon8bit(torch.optim.Optimizer):
    """Momentum, orthogonalised for matrices, over its second moment for the rest; about one byte a parameter.

    A matrix (both sides at least 16, one at most 16 times the other) moves by lr * 0.2 * sqrt(longer side) times the
    orthogonal factor of its momentum, so that one rate suits it and the rest. Other tensors move by lr times momentum /
    root of the second moment, which is kept by row and column; up to 4,096 values, moments are kept as they are. The
    first moment is kept as signed steps of the largest value in each block of 256. Weights in bfloat16 are rounded up
    or down at random, so that small updates count on average.
    Everything it counts lies on the device: a step can be captured in a CUDA graph. Scratch of a step: three bfloat16
    copies of up to four matrices, and their Gram matrices.
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
            given = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not given:
                continue
            lr = group["lr"]
            lr = lr if isinstance(lr, Tensor) else torch.full((), lr, device=given[0].device)
            for parameter in given:
                state = self.state[parameter]
                if not state:
                    state.update(_new_state(parameter))
                    state["salt"] = len(self.state)
                if not is_matrix(parameter):
                    move(parameter, state, lr, rates_of(group, state["salt"]))
            for batch in batches([parameter for parameter in given if is_matrix(parameter)]):
                _move_matrices(batch, [self.state[parameter] for parameter in batch], lr, group)
        return loss


def is_matrix(parameter: Tensor) -> bool:
    """Whether its momentum is orthogonalised."""
    sides = sorted(parameter.shape)
    return len(sides) == 2 and sides[0] >= LEAST_SIDE and sides[1] <= MOST_ASPECT * sides[0]


def batches(matrices: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Groups of up to four small matrices of the same shorter side, the longer ones at most twofold apart."""
    found: list[list[nn.Parameter]] = []
    for matrix in sorted(matrices, key=lambda matrix: (min(matrix.shape), max(matrix.shape))):
        last = found[-1] if found else []
        fits = last and min(last[0].shape) == min(matrix.shape) and 2 * max(last[0].shape) >= max(matrix.shape)
        if fits and len(last) < TOGETHER and (len(last) + 1) * matrix.numel() <= MOST_TOGETHER:
            last.append(matrix)
        else:
            found.append([matrix])
    return found


def orthogonal(matrices: Tensor) -> Tensor:
    """About U V^T of each matrix U S V^T, (..., rows, columns), by five steps of a quintic Newton-Schulz iteration.

    Overwrites the matrices. Rows or columns of zeros stay zero.
    """
    x = matrices.div_(torch.linalg.vector_norm(matrices, dim=(-2, -1), keepdim=True).add_(EPSILON))
    wide = x.shape[-2] <= x.shape[-1]
    for _ in range(ITERATIONS):
        gram = x @ x.mT if wide else x.mT @ x
        once = gram @ x if wide else x @ gram
        twice = gram @ once if wide else once @ gram
        combine_(x, once, twice, NEWTON_SCHULZ)
        del gram, once, twice  # the next ones can take their memory
    return x


def _new_state(parameter: Tensor) -> dict[str, Any]:
    if not is_matrix(parameter):
        return dict(new_state(parameter))
    steps, scale = new_moment(parameter)
    count = torch.zeros((), dtype=torch.int64, device=parameter.device)
    return {"first": steps, "first_scale": scale, "count": count}


def _move_matrices(
    matrices: Sequence[nn.Parameter], states: Sequence[dict[str, Any]], lr: Tensor, group: dict[str, Any]
) -> None:
    """Each along the orthogonal factor of its momentum; all of them lie upright in one tensor, filled up with zeros."""
    rows, columns = max(max(matrix.shape) for matrix in matrices), min(matrices[0].shape)
    one_shape = all(matrix.shape == (rows, columns) for matrix in matrices)
    new = matrices[0].new_empty if one_shape else matrices[0].new_zeros
    upright = new(len(matrices), rows, columns, dtype=torch.bfloat16)
    places = [upright[index, : max(matrix.shape)] for index, matrix in enumerate(matrices)]
    for matrix, state, place in zip(matrices, states, places, strict=True):
        _fill_direction(matrix, state, place, group["momentum"])
    orthogonal(upright)
    for matrix, state, place in zip(matrices, states, places, strict=True):
        rates = rates_of(group, state["salt"], RMS_OF_ADAM * math.sqrt(max(matrix.shape)))
        update = place if matrix.shape == place.shape else place.t()
        rounded_step_(matrix.data, update, state["count"], lr=lr, rates=rates)


def _fill_direction(matrix: nn.Parameter, state: dict[str, Any], place: Tensor, momentum: float) -> None:
    assert matrix.grad is not None
    moment, gradient = (state["first"], state["first_scale"]), matrix.grad.contiguous()
    if matrix.shape == place.shape:
        direction_8bit_(moment, gradient, state["count"], momentum=momentum, out=place)
        return
    lying = torch.empty_like(gradient, dtype=place.dtype)
    direction_8bit_(moment, gradient, state["count"], momentum=momentum, out=lying)
    place.copy_(lying.t())
