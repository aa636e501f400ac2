"""The same steps in plain PyTorch, some values at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from muse_kernels.moment_8bit.blocks import BLOCK, LARGEST_STEP
from muse_kernels.moment_8bit.rates import Rates

CHUNK = 1 << 18
TINY = torch.finfo(torch.float32).tiny


def direction(moment: tuple[Tensor, Tensor], gradient: Tensor, count: Tensor, momentum: float, out: Tensor) -> None:
    """As muse_kernels.moment_8bit.direction_8bit_."""
    count += 1
    flat, wanted = gradient.view(-1), out.view(-1)
    for some in _chunks(flat.numel()):
        followed = _follow(moment, some, flat[some], momentum)
        wanted[some] = followed.lerp_(flat[some].float(), 1 - momentum)


def rounded_step(parameter: Tensor, update: Tensor, count: Tensor, lr: Tensor, rates: Rates) -> None:
    """As muse_kernels.moment_8bit.rounded_step_."""
    whole, flat = parameter.view(-1), update.reshape(-1)
    for some in _chunks(whole.numel()):
        _move(whole[some], flat[some], lr, rates)


def factored_step(
    parameter: Tensor,
    gradient: Tensor,
    moment: tuple[Tensor, Tensor],
    second: tuple[Tensor, Tensor],
    count: Tensor,
    lr: Tensor,
    rates: Rates,
) -> None:
    """As muse_kernels.moment_8bit.factored_step_8bit_."""
    rows, columns = second
    count += 1
    squares = gradient.view(len(rows), -1).float().square()
    rows.lerp_(squares.mean(1), 1 - rates.beta2)
    columns.lerp_(squares.mean(0), 1 - rates.beta2)
    del squares
    ahead = (1 - rates.beta2**count).sqrt() / (1 - rates.momentum**count)
    mean, least = columns.mean(), rates.epsilon**2
    flat, whole = gradient.view(-1), parameter.view(-1)
    for some in _chunks(flat.numel()):
        place = torch.arange(some.start, some.stop, device=flat.device)
        update = _follow(moment, some, flat[some], rates.momentum)
        spread = rows[place // len(columns)] * (columns[place % len(columns)] / mean.clamp_min(least))
        update *= ahead * spread.clamp_min_(least).rsqrt_()
        blocks = torch.nn.functional.pad(update, (0, -len(update) % BLOCK)).view(-1, BLOCK)
        blocks = blocks / blocks.square().mean(1, keepdim=True).sqrt_().clamp_min_(1.0)
        _move(whole[some], blocks.view(-1)[: len(update)], lr, rates)


def small_step(
    parameter: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor], count: Tensor, lr: Tensor, rates: Rates
) -> None:
    """As muse_kernels.moment_8bit.small_step_."""
    first, second = moments
    count += 1
    value = gradient.float()
    first.lerp_(value, 1 - rates.momentum)
    second.lerp_(value.square(), 1 - rates.beta2)
    ahead = (1 - rates.beta2**count).sqrt() / (1 - rates.momentum**count)
    update = first * ahead * second.clamp_min(rates.epsilon**2).rsqrt()
    _move(parameter, update / update.square().mean().sqrt_().clamp_min_(1.0), lr, rates)


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


def _move(parameter: Tensor, update: Tensor, lr: Tensor, rates: Rates) -> None:
    moved = parameter.float() * (1 - lr * rates.decay) - update.float() * (lr * rates.scale)
    if parameter.dtype == torch.bfloat16:
        bits = moved.view(torch.int32)
        bits += torch.randint(0, 1 << 16, bits.shape, dtype=torch.int32, device=bits.device)
        bits &= -(1 << 16)
    parameter.copy_(moved)


def combine(x: Tensor, y: Tensor, z: Tensor, factors: tuple[float, float, float]) -> None:
    """As muse_kernels.moment_8bit.combine_."""
    a, b, c = factors
    x.copy_(a * x.float() + b * y.float() + c * z.float())
