"""Steps with an 8-bit first moment: the state's rounding, random rounding of weights, strides, agreement of both ways."""

import pytest
import torch
from torch import Tensor

from muse_kernels.moment_8bit import direction_8bit, factored_step_8bit_, mean_squares, new_moment, rounded_step_

every_lean = pytest.mark.parametrize("lean", ["eager", "triton"])
SHAPES = [(1,), (255,), (3, 100), (40, 33), (5, 7, 30)]


def scalars(device: str, rate: float, decay: float = 0.0, seed: int = 1) -> dict[str, Tensor]:
    return {
        "rate": torch.tensor(rate, device=device),
        "decay": torch.tensor(decay, device=device),
        "seed": torch.tensor(seed, device=device),
    }


def value_of(moment: tuple[Tensor, Tensor], like: Tensor) -> Tensor:
    steps, scale = moment
    return (steps * scale.unsqueeze(1)).view(-1)[: like.numel()].view_as(like)


@every_lean
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_moment_follows_within_half_a_step(
    lean: str, shape: tuple[int, ...], dtype: torch.dtype, device: str
) -> None:
    """A block that takes another's scale, a last block that is not full, a step in the wrong direction."""
    moment, exact = new_moment(torch.empty(shape, device=device)), torch.zeros(shape, device=device)
    for _ in range(3):
        gradient = torch.randn(shape, device=device).to(dtype)
        exact = 0.9 * value_of(moment, exact) + 0.1 * gradient.float()
        out = torch.empty_like(gradient)
        direction_8bit(moment, gradient, momentum=0.9, out=out, implementation=lean)
        error = (value_of(moment, exact) - exact).abs()
        blocks = torch.nn.functional.pad(error.view(-1), (0, -error.numel() % 256)).view(-1, 256)
        assert (blocks.amax(1) <= moment[1] * 0.5001).all()
        wanted = 0.9 * exact + 0.1 * gradient.float()
        torch.testing.assert_close(out.float(), wanted, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


@every_lean
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_factored_step(lean: str, shape: tuple[int, ...], device: str) -> None:
    """Factors of the wrong row or column, a decay or rate left out, an update beyond a root mean square of 1."""
    parameter, gradient = torch.randn(shape, device=device), torch.randn(shape, device=device)
    rows, columns = shape[0], max(1, gradient[0].numel())
    factors = torch.rand(rows, device=device) + 0.5, 30 * torch.rand(columns, device=device) + 0.5
    moment = new_moment(parameter)
    update = (0.1 * gradient.view(rows, columns) * factors[0].unsqueeze(1) * factors[1]).view(-1)
    blocks = torch.nn.functional.pad(update, (0, -update.numel() % 256)).view(-1, 256)
    blocks = blocks / blocks.square().mean(1, keepdim=True).sqrt().clamp_min(1.0)
    wanted = 0.98 * parameter - 0.5 * blocks.view(-1)[: update.numel()].view(shape)
    given = scalars(device, 0.5, 0.02)
    factored_step_8bit_(parameter, moment, gradient, factors, momentum=0.9, implementation=lean, **given)
    torch.testing.assert_close(parameter, wanted, rtol=1e-5, atol=1e-5)


@every_lean
def test_small_updates_count_on_average(lean: str, device: str) -> None:
    """Rounded to the nearest bfloat16, a weight of 1 would never move by a hundredth of its last place."""
    parameter = torch.ones(64, 64, dtype=torch.bfloat16, device=device)
    update = torch.ones(64, 64, device=device)
    for seed in range(50):
        rounded_step_(parameter, update, implementation=lean, **scalars(device, 2**-8 / 50, seed=seed))
    assert abs(parameter.float().mean().item() - (1 - 2**-8)) < 2**-8 / 10
    assert parameter.unique().numel() > 2


def test_each_seed_rounds_anew(device: str) -> None:
    update = torch.rand(32, 32, device=device)
    results = []
    for seed in (1, 1, 2):
        parameter = torch.ones(32, 32, dtype=torch.bfloat16, device=device)
        rounded_step_(parameter, update, implementation="triton", **scalars(device, 1e-2, seed=seed))
        results.append(parameter)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@every_lean
def test_an_update_of_any_strides(lean: str, device: str) -> None:
    parameter, update = torch.randn(5, 9, device=device), torch.randn(9, 5, device=device).t()
    wanted = parameter - 0.1 * update
    rounded_step_(parameter, update, implementation=lean, **scalars(device, 0.1))
    torch.testing.assert_close(parameter, wanted)


@pytest.mark.parametrize("values", [0.0, 1e-42, 3e38], ids=str)
@every_lean
def test_zeros_and_extremes_stay_finite(lean: str, values: float, device: str) -> None:
    gradient = torch.full((300,), values, device=device)
    moment, out = new_moment(gradient), torch.empty_like(gradient)
    direction_8bit(moment, gradient, momentum=0.5, out=out, implementation=lean)
    assert value_of(moment, gradient).isfinite().all()
    assert out.isfinite().all()


def test_wrong_shapes_are_refused() -> None:
    gradient = torch.zeros(10, 30)
    with pytest.raises(ValueError, match="factors"):
        factored_step_8bit_(
            gradient.clone(), new_moment(gradient), gradient, (torch.ones(10), torch.ones(3)),
            momentum=0.9, **scalars("cpu", 1.0),
        )  # fmt: skip
    with pytest.raises(ValueError, match="moment"):
        direction_8bit(new_moment(gradient[:1]), gradient, momentum=0.9, out=torch.empty_like(gradient))
    with pytest.raises(ValueError, match="contiguous"):
        direction_8bit(new_moment(gradient), gradient.t(), momentum=0.9, out=torch.empty_like(gradient.t()))


@pytest.mark.parametrize("shape", [(1, 1), (100, 1), (3, 300), (70, 17)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_mean_squares(shape: tuple[int, int], dtype: torch.dtype, device: str) -> None:
    """Tiles of rows or columns that are counted twice, or not at all."""
    matrix = torch.randn(shape, device=device).to(dtype)
    for ours, theirs in zip(
        mean_squares(matrix, implementation="triton"), mean_squares(matrix, implementation="eager"), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
