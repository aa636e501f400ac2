"""Steps with an 8-bit first moment: the state's rounding, random rounding of weights, strides, both ways alike."""

import pytest
import torch
from torch import Tensor

from muse_kernels.moment_8bit import (
    FactoredState,
    Rates,
    SmallState,
    combine_,
    direction_8bit_,
    factored_step_8bit_,
    new_moment,
    rounded_step_,
    small_step_,
)

every_lean = pytest.mark.parametrize("lean", ["eager", "triton"])
SHAPES = [(1,), (255,), (3, 100), (40, 33), (5, 7, 30)]


def scalar(device: str, value: float) -> Tensor:
    return torch.tensor(value, device=device)


def counter(device: str, value: int = 0) -> Tensor:
    return torch.tensor(value, dtype=torch.int64, device=device)


def value_of(moment: tuple[Tensor, Tensor], like: Tensor) -> Tensor:
    steps, scale = moment
    return (steps * scale.unsqueeze(1)).view(-1)[: like.numel()].view_as(like)


def new_state(parameter: Tensor) -> FactoredState:
    device = parameter.device
    rows, columns = torch.zeros(parameter.shape[0], device=device), torch.zeros(parameter[0].numel(), device=device)
    return FactoredState(new_moment(parameter), rows, columns, counter(str(device)))


@every_lean
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_moment_follows_within_half_a_step(
    lean: str, shape: tuple[int, ...], dtype: torch.dtype, device: str
) -> None:
    """A block that takes another's scale, a last block that is not full, a step in the wrong direction."""
    moment, exact, count = (
        new_moment(torch.empty(shape, device=device)),
        torch.zeros(shape, device=device),
        counter(device),
    )
    for done in range(1, 4):
        gradient = torch.randn(shape, device=device).to(dtype)
        exact = 0.9 * value_of(moment, exact) + 0.1 * gradient.float()
        out = torch.empty_like(gradient)
        direction_8bit_(moment, gradient, count, momentum=0.9, out=out, implementation=lean)
        error = (value_of(moment, exact) - exact).abs()
        blocks = torch.nn.functional.pad(error.view(-1), (0, -error.numel() % 256)).view(-1, 256)
        assert (blocks.amax(1) <= moment[1] * 0.5001).all()
        wanted = 0.9 * exact + 0.1 * gradient.float()
        torch.testing.assert_close(out.float(), wanted, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)
        assert count == done


@every_lean
@pytest.mark.parametrize("shape", [*SHAPES, (600, 300)], ids=str)
def test_a_factored_step(lean: str, shape: tuple[int, ...], device: str) -> None:
    """A moment of the wrong row or column, tiles of rows that nobody has, a correction, decay or rate left out."""
    parameter, state = torch.randn(shape, device=device), new_state(torch.empty(shape, device=device))
    exact, rows, columns = parameter.clone(), state.rows.clone(), state.columns.clone()
    rates = Rates(momentum=0.9, beta2=0.8, scale=2.0, decay=0.1)
    for done in range(1, 3):
        gradient = torch.randn(shape, device=device) * torch.rand(shape[0], *[1] * (len(shape) - 1), device=device)
        first = 0.9 * value_of(state.moment, exact) + 0.1 * gradient
        squares = gradient.view(shape[0], -1).square()
        rows, columns = 0.8 * rows + 0.2 * squares.mean(1), 0.8 * columns + 0.2 * squares.mean(0)
        second = rows.unsqueeze(1) * columns / columns.mean()
        update = (first / (1 - 0.9**done)).view(shape[0], -1) / (second / (1 - 0.8**done)).sqrt()
        blocks = torch.nn.functional.pad(update.view(-1), (0, -update.numel() % 256)).view(-1, 256)
        blocks = blocks / blocks.square().mean(1, keepdim=True).sqrt().clamp_min(1.0)
        exact = exact * (1 - 0.5 * 0.1) - 0.5 * 2.0 * blocks.view(-1)[: update.numel()].view(shape)
        factored_step_8bit_(parameter, gradient, state, lr=scalar(device, 0.5), rates=rates, implementation=lean)
        torch.testing.assert_close(parameter, exact, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(state.rows, rows)
        torch.testing.assert_close(state.columns, columns)


@every_lean
@pytest.mark.parametrize("shape", [(1,), (300,), (4, 33)], ids=str)
def test_a_small_step_is_adams(lean: str, shape: tuple[int, ...], device: str) -> None:
    parameter = torch.nn.Parameter(torch.randn(shape, device=device))
    ours = parameter.detach().clone()
    adam = torch.optim.AdamW([parameter], lr=0.1, betas=(0.9, 0.8), weight_decay=0.3)
    state = SmallState(torch.zeros(shape, device=device), torch.zeros(shape, device=device), counter(device))
    for _ in range(3):
        parameter.grad = torch.full(shape, 0.2, device=device)  # an update of 1 everywhere: nothing to shrink
        adam.step()
        small_step_(
            ours, parameter.grad, state, lr=scalar(device, 0.1), rates=Rates(0.9, 0.8, decay=0.3), implementation=lean
        )
    torch.testing.assert_close(ours, parameter.detach(), rtol=1e-4, atol=1e-5)
    assert state.count == 3


@every_lean
def test_small_updates_count_on_average(lean: str, device: str) -> None:
    """Rounded to the nearest bfloat16, a weight of 1 would never move by a hundredth of its last place."""
    parameter = torch.ones(64, 64, dtype=torch.bfloat16, device=device)
    update = torch.ones(64, 64, device=device)
    for step in range(50):
        rounded_step_(
            parameter, update, counter(device, step), lr=scalar(device, 2**-8 / 50), rates=Rates(), implementation=lean
        )
    assert abs(parameter.float().mean().item() - (1 - 2**-8)) < 2**-8 / 10
    assert parameter.unique().numel() > 2


def test_each_step_and_parameter_rounds_anew(device: str) -> None:
    update, results = torch.rand(32, 32, device=device), []
    for step, salt in ((1, 0), (1, 0), (2, 0), (1, 1)):
        parameter = torch.ones(32, 32, dtype=torch.bfloat16, device=device)
        rates = Rates(salt=salt)
        rounded_step_(
            parameter, update, counter(device, step), lr=scalar(device, 1e-2), rates=rates, implementation="triton"
        )
        results.append(parameter)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert not torch.equal(results[0], results[3])


@every_lean
def test_an_update_of_any_strides(lean: str, device: str) -> None:
    parameter, update = torch.randn(5, 9, device=device), torch.randn(9, 5, device=device).t()
    wanted = parameter - 0.1 * update
    rounded_step_(parameter, update, counter(device), lr=scalar(device, 0.1), rates=Rates(), implementation=lean)
    torch.testing.assert_close(parameter, wanted)


@every_lean
def test_combine(lean: str, device: str) -> None:
    x, y, z = (torch.randn(7, 300, device=device) for _ in range(3))
    wanted = 2 * x - y + 0.5 * z
    torch.testing.assert_close(combine_(x, y, z, (2.0, -1.0, 0.5), implementation=lean), wanted)


@pytest.mark.parametrize("values", [0.0, 1e-42, 3e38], ids=str)
@every_lean
def test_zeros_and_extremes_stay_finite(lean: str, values: float, device: str) -> None:
    gradient = torch.full((300,), values, device=device)
    moment, out = new_moment(gradient), torch.empty_like(gradient)
    direction_8bit_(moment, gradient, counter(device), momentum=0.5, out=out, implementation=lean)
    assert value_of(moment, gradient).isfinite().all()
    assert out.isfinite().all()


def test_wrong_shapes_are_refused() -> None:
    gradient, lr = torch.zeros(10, 30), torch.tensor(1.0)
    state = new_state(gradient[:, :3])
    with pytest.raises(ValueError, match="moment"):
        factored_step_8bit_(gradient.clone(), gradient, state, lr=lr, rates=Rates())
    with pytest.raises(ValueError, match="contiguous"):
        direction_8bit_(new_moment(gradient), gradient.t(), counter("cpu"), momentum=0.9, out=torch.empty(30, 10))
