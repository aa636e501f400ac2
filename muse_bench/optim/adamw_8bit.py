"""AdamW whose two moments are kept in 8 bits, a scale for each block of values."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from muse_bench.optim.one_by_one import OneByOne

BLOCK = 256
SIGNED_STEPS = 127
UNSIGNED_STEPS = 255


class AdamW8bit(OneByOne):
    """AdamW (Loshchilov and Hutter 2019) with block-wise quantised state: 2.03 bytes a parameter in place of 8.

    The first moment is kept as signed steps of its block's largest value, the second as unsigned steps of the square
    root, which spares its small values. Scratch of a step: a few float32 copies of the largest parameter.
    Source: Dettmers et al. 2022, arXiv:2110.02861.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def _move(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            blocks = -(-parameter.numel() // BLOCK)
            state["step"] = 0
            state["first"] = parameter.new_zeros(blocks, BLOCK, dtype=torch.int8)
            state["first_scale"] = parameter.new_zeros(blocks, 1, dtype=torch.float32)
            state["second"] = parameter.new_zeros(blocks, BLOCK, dtype=torch.uint8)
            state["second_scale"] = parameter.new_zeros(blocks, 1, dtype=torch.float32)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        gradient = _in_blocks(parameter.grad)
        first = (state["first"] * state["first_scale"]).lerp_(gradient, 1 - beta1)
        second = (state["second"] * state["second_scale"]).square_().mul_(beta2)
        second.addcmul_(gradient, gradient, value=1 - beta2)
        _keep(state["first"], state["first_scale"], first, SIGNED_STEPS)
        root = second.sqrt_()
        _keep(state["second"], state["second_scale"], root, UNSIGNED_STEPS)
        correction = (1 - beta2 ** state["step"]) ** 0.5
        update = first.div_(root.div_(correction).add_(group["eps"])).view(-1)[: parameter.numel()]
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        step_size = group["lr"] / (1 - beta1 ** state["step"])
        parameter.sub_(update.view_as(parameter).mul_(step_size))


def _in_blocks(tensor: Tensor | None) -> Tensor:
    """The values in float32 as (blocks, BLOCK), the last one padded with zeros."""
    assert tensor is not None  # only parameters with a gradient are updated
    flat = tensor.detach().reshape(-1).float()
    return nn.functional.pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)


def _keep(steps: Tensor, scale: Tensor, values: Tensor, largest: int) -> None:
    """Quantises values into steps and scale, in place."""
    torch.div(values.abs().amax(1, keepdim=True), largest, out=scale)
    # A block of zeros has scale zero; the smallest float in its place keeps zero over zero out.
    steps.copy_((values / scale.clamp_min(torch.finfo(scale.dtype).tiny)).round_())
