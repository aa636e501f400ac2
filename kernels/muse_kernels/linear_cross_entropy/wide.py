"""Gradients of a wide head on Triton, by blocks of the vocabulary: what they allocate, and the library's products."""

from collections.abc import Iterator

import torch
from torch import Tensor

from muse_kernels.chunks import slices
from muse_kernels.implementation import launches
from muse_kernels.linear_cross_entropy import blocks
from muse_kernels.linear_cross_entropy.blocks import Block
from muse_kernels.linear_cross_entropy.narrow import Gradients, Operands, Saved
from muse_kernels.linear_cross_entropy.softmax import Loss


def gradients(operands: Operands, saved: Saved, loss: Loss, needs: tuple[bool, ...]) -> Gradients:
    """Those needed of the gradients of (x, weight, bias); saved is (targets, statistics, grad, count).

    16 bits only. Every row of the weight's gradient is one whole product, rounded once; that of x is summed in 24 bits.
    """
    x, weight, bias = operands
    (tokens, width), vocab_size = x.shape, weight.shape[0]
    grad_x = x.new_empty(tokens, width) if needs[0] else None
    grad_weight = weight.new_empty(weight.shape) if needs[1] else None
    grad_bias = bias.new_empty(bias.shape) if bias is not None and needs[2] else None
    if tokens == 0:
        return grad_x, _zeroed(grad_weight), _zeroed(grad_bias)
    taken = 0 if grad_x is None else grad_x.numel()
    budget = blocks.logits_budget(tokens, vocab_size, width, x.element_size(), taken)
    plan, elements = blocks.vocabulary_blocks(
        tokens, vocab_size, width, x.element_size(), budget, gradient=grad_weight is not None
    )
    scratch = x.new_empty(elements)
    lower = None if grad_x is None or len(plan) == 1 else grad_x.new_empty(grad_x.shape, dtype=torch.uint8)
    for step in plan:
        places = [_place(block, scratch, grad_weight, tokens) for block in step]
        for block, grad_logits in zip(step, places, strict=True):
            _logits_gradient(operands, saved, block, grad_logits, grad_bias, loss)
            if grad_weight is not None:
                torch.mm(grad_logits.transpose(0, 1), x, out=grad_weight[block.start : block.stop])
        if grad_x is not None:
            rows = weight[step[0].start : step[-1].stop]
            _add_product(places, rows, grad_x, lower, step is plan[0], step is plan[-1])
    return grad_x, grad_weight, grad_bias


def library_statistics(operands: Operands, targets: Tensor, picked: Tensor) -> Tensor:
    """(2, 1, tokens), as fused.statistics, from blocks of logits that the library's product writes."""
    x = operands[0]
    partial = x.new_empty(2, 1, x.shape[0], dtype=torch.float32)
    for part, logits in _library_blocks(operands):
        if launches(partial):
            from muse_kernels.linear_cross_entropy.wide_kernel import launch_block_statistics

            launch_block_statistics(logits, targets, partial, picked, part.start, first=part.start == 0)
    return partial


def library_gradients(operands: Operands, saved: Saved, loss: Loss, needs: tuple[bool, ...]) -> Gradients:
    """As gradients, for float32: the same blocks as library_statistics, so that they have the same logits."""
    x, weight, bias = operands
    grad_x = torch.zeros_like(x, memory_format=torch.contiguous_format) if needs[0] else None
    grad_weight = weight.new_empty(weight.shape) if needs[1] else None
    grad_bias = bias.new_empty(bias.shape) if bias is not None and needs[2] else None
    for part, logits in _library_blocks(operands):
        if launches(logits):
            from muse_kernels.linear_cross_entropy.wide_kernel import launch_block_gradient

            launch_block_gradient(logits, saved, part.start, loss)
        if grad_bias is not None:
            torch.sum(logits, 0, out=grad_bias[part])
        if grad_weight is not None:
            torch.mm(logits.transpose(0, 1), x, out=grad_weight[part])
        if grad_x is not None:
            grad_x.addmm_(logits, weight[part])
    return grad_x, grad_weight, grad_bias


def _place(block: Block, scratch: Tensor, grad_weight: Tensor | None, tokens: int) -> Tensor:
    """(tokens, columns): where a block's logits lie; the rows' first elements are aligned to 128 bytes."""
    elements, store, start = tokens * block.stride, scratch, 0
    if block.in_gradient and grad_weight is not None:
        store = grad_weight.view(-1)
        start = (store.numel() - elements) // blocks.GRAIN * blocks.GRAIN
    return store[start : start + elements].view(tokens, block.stride)[:, : block.stop - block.start]


def _logits_gradient(
    operands: Operands, saved: Saved, block: Block, grad_logits: Tensor, grad_bias: Tensor | None, loss: Loss
) -> None:
    """Fills a block's gradient; where a bias has one too, in parts, so that sums over tiles of tokens stay small."""
    x, weight, _ = operands
    tiles = blocks.product_tiles(x, weight.shape[0])
    row_tiles, columns, sums = -(-x.shape[0] // tiles.rows), grad_logits.shape[1], None
    if grad_bias is not None:
        columns = min(columns, blocks.summed_columns(row_tiles))
        sums = x.new_empty(columns * row_tiles, dtype=torch.float32)
    if launches(grad_logits):
        from muse_kernels.linear_cross_entropy.wide_kernel import launch_logits_gradient
        from muse_kernels.partials import sum_partials

        for places in slices(grad_logits.shape[1], columns):
            part = Block(block.start + places.start, block.start + places.stop, block.in_gradient)
            shares = None if sums is None else sums[: row_tiles * (part.stop - part.start)].view(row_tiles, -1)
            launch_logits_gradient(operands, saved, part, grad_logits[:, places], shares, loss, tiles)
            if shares is not None and grad_bias is not None:
                sum_partials(shares, grad_bias[part.start : part.stop])


def _add_product(
    lefts: list[Tensor], right: Tensor, total: Tensor, lower: Tensor | None, first: bool, last: bool
) -> None:
    if launches(total):
        from muse_kernels.linear_cross_entropy.wide_kernel import launch_add_product

        tiles, (left, *rest) = blocks.sum_tiles(total, right.shape[0]), lefts
        launch_add_product(left, right, total, lower, tiles, first=first, last=last, rest=next(iter(rest), None))


def _library_blocks(operands: Operands) -> Iterator[tuple[slice, Tensor]]:
    """Slices of the vocabulary and their logits, in one scratch."""
    x, weight, bias = operands
    (tokens, width), vocab_size = x.shape, weight.shape[0]
    budget = blocks.logits_budget(tokens, vocab_size, width, x.element_size(), 0)
    columns = min(vocab_size, blocks.round_up(-(-budget // max(tokens * x.element_size(), 1)), blocks.GRAIN))
    scratch = x.new_empty(tokens * columns)
    for part in slices(vocab_size, columns):
        size = part.stop - part.start
        logits = scratch[: tokens * size].view(tokens, size)
        block = weight[part].transpose(0, 1)
        if bias is None:
            torch.mm(x, block, out=logits)
        else:
            torch.addmm(bias[part], x, block, out=logits)
        yield part, logits


def _zeroed(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.zero_()
