"""Logits against a tensor-train table by Triton kernels: one launch forward, four backward.

At higher ranks, in 16 bits and for many tokens, the table is expanded by blocks, and the products are the library's:
in backward, and in forward where the rows of the logits are aligned.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from muse_kernels import tensor_train_blocks
from muse_kernels.chunks import slices
from muse_kernels.implementation import launches
from muse_kernels.tensor_train_blocks import Cores, Fill, Plan
from muse_kernels.tt_linear.plan import Blocks, Cut

FREE_RANKS = 8  # without blocks, logits and gradients take about what products with the expanded table do
TABLE_BYTES = 16 << 20  # of scratch where the table is expanded; half the bytes of the logits if those are less
ALIGNED_BYTES = 16  # the library's products write rows of logits that are no multiple of it six times slower


class FusedTTLinear(torch.autograd.Function):
    """Saves x; the cores and theta are parameters and saved by reference."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, core1: Tensor, core2: Tensor, theta: Tensor, vocab_size: int) -> Tensor:
        ctx.save_for_backward(x, core1, core2, theta)
        rows, cores = x.reshape(-1, x.shape[-1]), (core1.contiguous(), core2.contiguous(), theta.contiguous())
        logits = x.new_empty(*x.shape[:-1], vocab_size)
        aligned = vocab_size * x.element_size() % ALIGNED_BYTES == 0
        if aligned and _block_plan(rows, cores, vocab_size) is not None:
            _block_logits(rows, cores, logits.view(-1, vocab_size))
        elif launches(logits):
            from muse_kernels.tt_linear.kernel import launch_logits

            blocks = Blocks.of(rows.shape[0], core1, core2, gradients=False)
            launch_logits(rows, *cores, logits.view(-1, vocab_size), blocks)
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, core1, core2, theta = ctx.saved_tensors
        if x.numel() == 0:
            return torch.zeros_like(x), *(torch.zeros_like(tensor) for tensor in (core1, core2, theta)), None
        rows, grad_logits = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
        cores = (core1.contiguous(), core2.contiguous(), theta.contiguous())
        plan = _block_plan(rows, cores, grad_logits.shape[1])
        if plan is not None:
            return *_block_gradients(rows, cores, grad_logits, plan, x.shape), None
        grad_x = x.new_empty(x.shape)
        gradients = (torch.empty_like(cores[0]), torch.empty_like(cores[1]), torch.empty_like(cores[2]))
        blocks = Blocks.of(rows.shape[0], core1, core2, gradients=True)
        cut = Cut.of(rows.shape[0], core1, core2, blocks)
        shapes = cut.share_shapes(core1, core2)
        first, second, third = (torch.empty(shape, dtype=torch.float32, device=x.device) for shape in shapes)
        if launches(grad_x):
            from muse_kernels.tt_linear.gradient_kernel import launch_gradients

            shares, rows_of_x = (first, second, third), grad_x.view(rows.shape)
            launch_gradients(rows, grad_logits, cores, rows_of_x, shares, gradients, blocks, cut)
        return grad_x, *gradients, None


def _block_plan(rows: Tensor, cores: Cores, vocab_size: int) -> Plan | None:
    """How the gradients are cut where the table is expanded; None where it is not."""
    return tensor_train_blocks.plan_gradients(rows, cores, vocab_size, _budget(rows, vocab_size), FREE_RANKS)


def _budget(rows: Tensor, vocab_size: int) -> int:
    return min(TABLE_BYTES, rows.shape[0] * vocab_size * rows.element_size() // 2)


def _block_logits(rows: Tensor, cores: Cores, logits: Tensor) -> None:
    vocab_size, width = logits.shape[1], rows.shape[1]
    columns = tensor_train_blocks.block_columns(vocab_size, width, rows.element_size(), _budget(rows, vocab_size))
    table = rows.new_empty(columns, width)
    for ids in slices(vocab_size, columns):
        torch.mm(rows, tensor_train_blocks.expand(cores, ids, table).transpose(0, 1), out=logits[:, ids])


def _block_gradients(
    rows: Tensor, cores: Cores, grad_logits: Tensor, plan: Plan, shape: torch.Size
) -> tuple[Tensor | None, ...]:
    def of_chunk(chunk: slice) -> Fill:
        def fill(block: Tensor, ids: slice, _: Tensor) -> None:
            # The rows of an odd vocabulary's logits are not aligned, and products with them are slow.
            block.copy_(grad_logits[chunk, ids])

        return fill

    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    grad_x, *gradients = tensor_train_blocks.gradients(rows, cores, grad_logits.shape[1], plan, of_chunk, (True,) * 4)
    return None if grad_x is None else grad_x.view(shape), *gradients
