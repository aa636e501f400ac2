"""The same steps in plain PyTorch, some values at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from muse_kernels.moment_8bit.blocks import BLOCK, LARGEST_STEP

CHUNK = 1 << 18
TINY = torch.finfo(torch.float32).tiny


def direction(moment: tuple[Tensor, Tensor], gradient: Tensor, momentum: float, out: Tensor) -> None:
    """As muse_kernels.direction_8bit."""
    flat, wanted = gradient.view(-1), out.view(-1)
    for some in _chunks(flat.numel()):
        followed = _follow(moment, some, flat[some], momentum)
        wanted[some] = followed.lerp_(flat[some].float(), 1 - momentum)


def factored_step(
    parameter: Tensor,
    moment: tuple[Tensor, Tensor],
    gradient: Tensor,
    factors: tuple[Tensor, Tensor],
    momentum: float,
    scalars: tuple[Tensor, Tensor],
) -> None:
    """As muse_kernels.factored_step_8bit_."""
    flat, whole, (rows, columns) = gradient.view(-1), parameter.view(-1), factors
    for some in _chunks(flat.numel()):
        place = torch.arange(some.start, some.stop, device=flat.device)
        update = _follow(moment, some, flat[some], momentum)
        update *= rows[place // columns.numel()] * columns[place % columns.numel()]
        blocks = torch.nn.functional.pad(update, (0, -len(update) % BLOCK)).view(-1, BLOCK)
        blocks /= blocks.square().mean(1, keepdim=True).sqrt_().clamp_min_(1.0)
        _move(whole[some], blocks.view(-1)[: len(update)], scalars)


def rounded_step(parameter: Tensor, update: Tensor, scalars: tuple[Tensor, Tensor]) -> None:
    """As muse_kernels.rounded_step_."""
    whole, flat = parameter.view(-1), update.reshape(-1)
    for some in _chunks(whole.numel()):
        _move(whole[some], flat[some], scalars)


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, min(count, start + CHUNK)) for start in range(0, count, CHUNK))


def _follow(moment: tuple[Tensor, Tensor], some: slice, gradient: Tensor, momentum: float) -> Tensor:
    """The new moment of these values, in float32; the state keeps it in its steps."""
    blocks = slice(some.start // BLOCK, -(-some.stop // BLOCK))
    steps, scale = moment[0][blocks], moment[1][blocks]
    followed = (steps * scale.unsqueeze(1)).mul_(momentum)
    followed.view(-1)[: gradient.numel()].add_(gradient, alpha=1 - momentum)
    torch.div(followed.abs().amax(1), LARGEST_STEP, out=scale)
    steps.copy_((followed / scale.clamp_min(TINY).unsqueeze(1)).round_())
    return followed.view(-1)[: gradient.numel()]


def _move(parameter: Tensor, update: Tensor, scalars: tuple[Tensor, Tensor]) -> None:
    rate, decay = scalars
    moved = parameter.float() * (1 - decay) - update.float() * rate
    if parameter.dtype == torch.bfloat16:
        bits = moved.view(torch.int32)
        bits += torch.randint(0, 1 << 16, bits.shape, dtype=torch.int32, device=bits.device)
        bits &= -(1 << 16)
    parameter.copy_(moved)
