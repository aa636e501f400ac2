"""Launchers of the tensor-train head's kernels; operands are x, core1 and the second core rotated and padded."""

import torch
import triton
from torch import Tensor

from muse_kernels.linear_cross_entropy.softmax import Loss
from muse_kernels.linear_cross_entropy.tensor_train_kernel import (
    rotate_kernel,
    train_core_gradients_kernel,
    train_input_gradient_kernel,
    train_statistics_kernel,
)
from muse_kernels.linear_cross_entropy.train_plan import TrainPlan

Operands = tuple[Tensor, Tensor, Tensor]
ROTATED_A_PROGRAM = 1024


def launch_rotate(core2: Tensor, theta: Tensor, right: Tensor) -> None:
    """Fills right (columns, ranks, d2), the rotated core2 in rows that are padded with zeros."""
    with torch.cuda.device_of(core2):
        rotate_kernel[(triton.cdiv(right.numel(), ROTATED_A_PROGRAM),)](
            core2, theta, right, right.numel(), *core2.shape,
            RANKS=right.shape[1], D2=right.shape[2], BLOCK=ROTATED_A_PROGRAM,
        )  # fmt: skip


def launch_statistics(operands: Operands, targets: Tensor, partial: Tensor, picked: Tensor, plan: TrainPlan) -> None:
    """Fills the statistics (2, splits, tokens) of each split of the vocabulary, and the targets' logits."""
    tokens, splits = targets.shape[0], partial.shape[1]
    token_tiles = plan.token_tiles(tokens)
    with torch.cuda.device_of(partial):
        train_statistics_kernel[(token_tiles * splits,)](
            *operands, targets, partial, picked, *_sizes(operands[0], plan), token_tiles, splits,
            **_constants(operands[0], plan), num_warps=4, num_stages=2,
        )  # fmt: skip


def launch_input_gradient(
    operands: Operands, saved: tuple[Tensor, Tensor, Tensor, Tensor], grad_x: Tensor, loss: Loss, plan: TrainPlan
) -> None:
    """Fills grad_x (splits, tokens, width); saved is (targets, statistics, grad, count)."""
    token_tiles, splits = plan.token_tiles(grad_x.shape[1]), grad_x.shape[0]
    with torch.cuda.device_of(grad_x):
        train_input_gradient_kernel[(token_tiles * splits,)](
            *operands, *saved, grad_x, *_sizes(operands[0], plan), token_tiles, splits, loss.ignore_index,
            MEAN=loss.reduction == "mean", **_constants(operands[0], plan), num_warps=8, num_stages=2,
        )  # fmt: skip


def launch_core_gradients(
    operands: Operands,
    saved: tuple[Tensor, Tensor, Tensor, Tensor],
    core2: Tensor,
    shares: tuple[Tensor, Tensor, Tensor],
    splits: tuple[int, int],
    loss: Loss,
    plan: TrainPlan,
) -> None:
    """Fills the shares of core1, of the rotated core2, and of its product with core2.

    They are (v1, column_tiles * splits[1], rank, d1), (v2, splits[0] * splits[1], rank, d2) and (all three, rank),
    for splits[0] parts of the groups and splits[1] of the tokens.
    """
    with torch.cuda.device_of(core2):
        train_core_gradients_kernel[(plan.column_tiles * plan.chunks * splits[0] * splits[1],)](
            *operands, *saved, core2, *shares, *_sizes(operands[0], plan), plan.column_tiles, splits[1], splits[0],
            loss.ignore_index, MEAN=loss.reduction == "mean", **_constants(operands[0], plan),
            num_warps=8, num_stages=2,
        )  # fmt: skip


def _sizes(x: Tensor, plan: TrainPlan) -> tuple[int, ...]:
    """token_count, vocab_size, x_stride, v1, v2."""
    return x.shape[0], plan.vocab_size, x.stride(0), plan.v1, plan.v2


def _constants(x: Tensor, plan: TrainPlan) -> dict[str, int]:
    _, ranks, d2 = plan.right_shape
    return {
        "width": x.shape[1], "rank": plan.rank, "d1": plan.d1, "d2": plan.d2,
        "TOKENS": plan.tokens, "GROUP": plan.group, "RANKS": plan.ranks, "CHUNKS": ranks // plan.ranks,
        "D1": triton.next_power_of_2(max(plan.d1, 16)), "D2": d2, "COLUMNS": plan.columns,
    }  # fmt: skip
