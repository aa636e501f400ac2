"""Adafactor without a first moment for matrices: a number a row and a column of state; 8-bit Adam for tables."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from muse_bench.optim.factored_adam import move, new_state, rates_of
from muse_bench.optim.one_by_one import OneByOne
from muse_bench.stored import Int8Parameter
from muse_kernels.int8_step import Int8Rates, int8_step_
from muse_kernels.moment_8bit import rounded_step_
from muse_kernels.row_column import mean_squares, scale_

LEAST_SIDE = 16
RMS_OF_ADAM = 0.2
FORGETTING = -0.8  # new squares have a share of count^-0.8: all of it in the first step, none is favoured later
LEAST_SHARE = 1e-3
LEAST_SQUARE = 1e-30


class Adafactor8bit(OneByOne):
    """A matrix moves by lr * 0.2 * g / sqrt(v), where v_ij = rows_i columns_j / mean(rows) follows the squares of g.

    Where g / sqrt(v) has a root mean square above 1, the step, and its decay with it, is shrunk to 1. The factor is the
    size that Adam's moves have as a rule, so that one rate suits all. A matrix has no first moment: its state is `rows`
    and `columns` in float32. Tables, which have a side of `vocab_size`, get a factored Adam with 8-bit momentum, for
    most of their rows are rare words', whose gradients of one step are mostly noise. So do vectors, matrices with a
    side below 16 and tensors of more dimensions; up to 4,096 values, moments are kept as they are. A matrix in INT8 is
    never a table. Weights in bfloat16 and in INT8 are rounded up or down at random; there is no other copy of them.
    Gradients of matrices are overwritten. All that it counts lies on the device: a CUDA graph can capture a step.
    Source: Shazeer and Stern 2018, arXiv:1804.04235 (factored moments, their share, the limit; its rates follow the
    size of the weights, which these do not); Dettmers et al. 2022, arXiv:2110.02861 (8-bit state); Zhang et al. 2024,
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
        """`momentum` and `beta2` are those of tables, vectors and the like."""
        self._vocab_size = vocab_size
        defaults = {"lr": lr, "momentum": momentum, "beta2": beta2, "weight_decay": weight_decay, "capturable": True}
        super().__init__(params, defaults)

    def has_no_first_moment(self, parameter: Tensor) -> bool:
        """Whether it moves as matrices do."""
        if isinstance(parameter, Int8Parameter):
            return True
        return parameter.dim() == 2 and min(parameter.shape) >= LEAST_SIDE and self._vocab_size not in parameter.shape

    def _move(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        state, lr, as_matrix = self.state[parameter], group["lr"], self.has_no_first_moment(parameter)
        lr = lr if isinstance(lr, Tensor) else torch.full((), lr, device=parameter.device)
        if not state:
            state.update(_new_squares(parameter) if as_matrix else new_state(parameter), salt=len(self.state))
        if as_matrix:
            _move_matrix(parameter, state, lr, group)
        else:
            move(parameter, state, lr, rates_of(group, state["salt"]))


def _new_squares(parameter: Tensor) -> dict[str, Tensor]:
    rows, columns = (torch.zeros(size, device=parameter.device) for size in parameter.shape)
    return {"rows": rows, "columns": columns, "count": torch.zeros((), dtype=torch.int64, device=parameter.device)}


def _move_matrix(parameter: nn.Parameter, state: dict[str, Any], lr: Tensor, group: dict[str, Any]) -> None:
    assert parameter.grad is not None
    update, rows, columns = parameter.grad, state["rows"], state["columns"]
    state["count"] += 1
    share = state["count"].float().pow_(FORGETTING).clamp_min_(LEAST_SHARE)
    for kept, found in zip((rows, columns), mean_squares(update), strict=True):
        kept.lerp_(found.add_(LEAST_SQUARE), share)
    size = scale_(update, (rows.mean() / rows).sqrt_(), columns.rsqrt())
    lr, rates = lr / size.sqrt_().clamp_min_(1), rates_of(group, state["salt"], RMS_OF_ADAM)
    if isinstance(parameter, Int8Parameter):
        int8_rates = Int8Rates(scale=rates.scale, decay=rates.decay, salt=rates.salt)
        int8_step_(*parameter.stored, update, state["count"], lr=lr, rates=int8_rates)
    else:
        rounded_step_(parameter.data, update, state["count"], lr=lr, rates=rates)
