"""Steps on INT8 weights: right on average, never off by more than a step, scales that follow, both ways alike."""

import pytest
import torch
from torch import Tensor

from muse_kernels import int8_linear, quantise_int8
from muse_kernels.int8_step import Int8Rates, int8_step_

every_lean = pytest.mark.parametrize("lean", ["eager", "triton"])
SHAPES = [(1, 1), (5, 3), (3, 1500), (70, 33)]


def scalar(device: str, value: float) -> Tensor:
    return torch.tensor(value, device=device)


def counter(device: str, value: int = 0) -> Tensor:
    return torch.tensor(value, dtype=torch.int64, device=device)


def moved(steps: Tensor, scale: Tensor, update: Tensor, lr: float, rates: Int8Rates) -> Tensor:
    """What the weight would become without rounding, in float64."""
    weight = steps.double() * scale.double().unsqueeze(1)
    return weight * (1 - lr * rates.decay) - lr * rates.scale * update.double()


@every_lean
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_each_value_is_within_a_step_and_the_largest_exact(
    lean: str, shape: tuple[int, int], dtype: torch.dtype, device: str
) -> None:
    """Another row's scale, a tile that nobody has, decay or rate left out, a value that is cut off."""
    steps, scale = quantise_int8(torch.randn(shape, device=device))
    update, rates = torch.randn(shape, device=device).to(dtype), Int8Rates(scale=2.0, decay=0.5, salt=3)
    wanted = moved(steps, scale, update, 0.1, rates)
    int8_step_(steps, scale, update, counter(device), lr=scalar(device, 0.1), rates=rates, implementation=lean)
    found = steps.double() * scale.double().unsqueeze(1)
    assert ((found - wanted).abs() <= scale.double().unsqueeze(1) * (1 + 1e-4)).all()
    torch.testing.assert_close(scale.double() * 127, wanted.abs().amax(1), rtol=1e-5, atol=0)
    largest = wanted.abs().argmax(1, keepdim=True)
    torch.testing.assert_close(found.gather(1, largest), wanted.gather(1, largest), rtol=1e-5, atol=0)


@every_lean
def test_small_updates_count_on_average(lean: str, device: str) -> None:
    """Rounded to the nearest step, none of these would ever move; rounded up always, all would."""
    start = torch.linspace(-1, 1, 255, device=device).repeat(64, 1)
    steps, scale = quantise_int8(start)
    update = torch.linspace(-1, 1, 255, device=device).flip(0).repeat(64, 1)
    rates, moves = Int8Rates(), 40
    for done in range(moves):
        count = counter(device, done)
        int8_step_(steps, scale, update, count, lr=scalar(device, 1e-3), rates=rates, implementation=lean)
    found = (steps.double() * scale.double().unsqueeze(1)).mean(0)
    wanted = start[0].double() - moves * 1e-3 * update[0].double()
    # Of each move, the rounding errs by a variance of a quarter of a step at most; 64 rows are drawn.
    deviation = (moves * scale.double().max() ** 2 / 4 / 64).sqrt()
    assert ((found - wanted).abs() < 4.5 * deviation).all()
    assert abs((found - wanted).mean()) < 4.5 * deviation / 255**0.5


@every_lean
def test_one_step_is_unbiased_to_the_last_bits(lean: str, device: str) -> None:
    """In units of a step, over a million draws: a rounding whose halves fall to one side would show."""
    steps = torch.zeros(1000, 1001, dtype=torch.int8, device=device)
    steps[:, 0] = 127
    scale, update = torch.ones(1000, device=device), torch.full((1000, 1001), -0.3, device=device)
    update[:, 0] = 0
    int8_step_(steps, scale, update, counter(device), lr=scalar(device, 1.0), rates=Int8Rates(), implementation=lean)
    assert torch.equal(scale, torch.ones_like(scale))
    mean = steps[:, 1:].double().mean().item()
    assert abs(mean - 0.3) < 4.5 * (0.3 * 0.7 / 1e6) ** 0.5


@every_lean
def test_what_does_not_move_stays_to_the_bit(lean: str, device: str) -> None:
    """A rounding anew of every value at every step would be a random walk of its own."""
    steps, scale = quantise_int8(torch.randn(40, 300, device=device))
    before = steps.clone(), scale.clone()
    update = torch.zeros(40, 300, device=device)
    int8_step_(steps, scale, update, counter(device), lr=scalar(device, 1.0), rates=Int8Rates(), implementation=lean)
    assert torch.equal(steps, before[0])
    assert torch.equal(scale, before[1])


@every_lean
def test_rows_of_zeros_and_extremes_stay_usable(lean: str, device: str) -> None:
    """A scale that becomes zero would make the next step not finite."""
    start = torch.tensor([[0.0, 0.0], [1e-30, -1e-30], [1e30, 1.0]], device=device)
    steps, scale = quantise_int8(start)
    for update in (torch.zeros_like(start), start, torch.ones_like(start)):
        int8_step_(
            steps, scale, update, counter(device), lr=scalar(device, 1.0), rates=Int8Rates(), implementation=lean
        )
        assert (scale > 0).all()
        assert scale.isfinite().all()
    torch.testing.assert_close((steps * scale.unsqueeze(1))[:2], torch.full((2, 2), -1.0, device=device))


@every_lean
def test_what_is_not_finite_shows(lean: str, device: str) -> None:
    """INT8 has no NaN: a divergence must not look like a weight."""
    steps, scale = quantise_int8(torch.randn(3, 5, device=device))
    update = torch.zeros(3, 5, device=device)
    update[1, 2] = torch.nan
    int8_step_(steps, scale, update, counter(device), lr=scalar(device, 1.0), rates=Int8Rates(), implementation=lean)
    assert scale.isnan().tolist() == [False, True, False]


def test_each_step_and_matrix_rounds_anew(device: str) -> None:
    update, results = torch.rand(32, 32, device=device), []
    for count, salt in ((1, 0), (1, 0), (2, 0), (1, 1)):
        steps, scale = torch.full((32, 32), 60, dtype=torch.int8, device=device), torch.ones(32, device=device)
        rates, rate = Int8Rates(salt=salt), scalar(device, 1.0)
        int8_step_(steps, scale, update, counter(device, count), lr=rate, rates=rates, implementation="triton")
        results.append(steps)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert not torch.equal(results[0], results[3])


@every_lean
def test_an_update_of_any_strides(lean: str, device: str) -> None:
    update = torch.randn(9, 5, device=device).t()
    found = []
    for given in (update, update.contiguous()):
        torch.manual_seed(0)
        steps, scale = torch.full((5, 9), 60, dtype=torch.int8, device=device), torch.ones(5, device=device)
        int8_step_(steps, scale, given, counter(device), lr=scalar(device, 1.0), rates=Int8Rates(), implementation=lean)
        found.append((steps, scale))
    assert all(map(torch.equal, *found))


@every_lean
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_gradient_of_a_weight_that_steps_at_once(lean: str, dtype: torch.dtype, device: str) -> None:
    """The weight moves as soon as its gradient is there: that of the input must be of the weight before."""
    steps, scale = quantise_int8(torch.randn(13, 21, device=device))
    handle = torch.nn.Parameter(torch.zeros((), dtype=dtype, device=device).expand(13, 21))
    x = torch.randn(2, 5, 21, device=device).to(dtype).requires_grad_()
    weight = (steps * scale.unsqueeze(1)).requires_grad_()

    def update(parameter: Tensor) -> None:
        assert parameter.grad is not None
        rates, rate = Int8Rates(), scalar(device, 0.1)
        int8_step_(steps, scale, parameter.grad, counter(device), lr=rate, rates=rates, implementation=lean)

    handle.register_post_accumulate_grad_hook(update)
    cotangent = torch.randn(2, 5, 13, device=device).to(dtype)
    expected = torch.autograd.grad(x.float() @ weight.t(), (x, weight), cotangent.float())
    int8_linear(x, steps, scale, straight_through=handle, implementation=lean).backward(cotangent)
    tolerance = {"rtol": 2**-6, "atol": 2**-5} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(x.grad.float(), expected[0].float(), **tolerance)
    torch.testing.assert_close(handle.grad.float(), expected[1].float(), **tolerance)
    assert handle.grad.dtype == dtype


WEIGHT, SCALE, UPDATE = torch.ones(4, 3, dtype=torch.int8), torch.ones(4), torch.ones(4, 3)


@pytest.mark.parametrize(
    ("weight", "scale", "update", "message"),
    [
        (WEIGHT.float(), SCALE, UPDATE, "weight_int8: expected dtype int8, got float32"),
        (WEIGHT, SCALE[:3], UPDATE, r"scale: expected shape \(4,\), got \(3,\)"),
        (WEIGHT, SCALE, UPDATE.t(), r"update: expected shape \(4, 3\), got \(3, 4\)"),
        (WEIGHT.t().contiguous().t(), SCALE, UPDATE, "weight_int8: must be contiguous"),
        (WEIGHT, SCALE, UPDATE.to("meta"), "update: is on meta, but weight_int8 is on cpu"),
    ],
    ids=str,
)
def test_a_bad_argument_is_named(weight: Tensor, scale: Tensor, update: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        int8_step_(weight, scale, update, counter("cpu"), lr=torch.tensor(1.0), rates=Int8Rates())
