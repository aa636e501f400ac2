"""Adafactor with 8-bit tables: its moves and their limit, what keeps which state, and how INT8 weights learn."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from muse_bench.optim.adafactor_8bit import Adafactor8bit
from muse_bench.optim.factored_adam import move, new_state, rates_of

RATE, VOCAB_SIZE = 3e-3, 64
pytestmark = pytest.mark.usefixtures("one_thread")


class Exactly:
    """The same steps in float64, from the definition."""

    def __init__(self, lr: float, decay: float) -> None:
        self.lr, self.decay, self.squares, self.count = lr, decay, torch.zeros(()), 0

    def moved(self, weight: Tensor, gradient: Tensor) -> Tensor:
        """What one more step makes of the weight."""
        self.count += 1
        # Means by row and by column are linear: those of what is followed are what is followed of the means.
        self.squares = torch.lerp(self.squares.double(), gradient.double().square(), max(self.count**-0.8, 1e-3))
        rows, columns = self.squares.mean(1, keepdim=True), self.squares.mean(0)
        update = gradient.double() * (rows.mean() / (rows * columns)).sqrt()
        rate = self.lr / update.square().mean().sqrt().clamp(min=1)
        return weight.double() * (1 - rate * self.decay) - rate * 0.2 * update


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_matrix_moves_as_defined(dtype: torch.dtype, transposed: bool) -> None:
    """The squares' share of a step, rows for columns, the limit that a larger gradient meets, decay.

    In bfloat16 within the rounding of the weight and of the move.
    """
    weight = torch.nn.Parameter(torch.randn(20, 33).to(dtype))
    optimizer, exactly = Adafactor8bit([weight], lr=0.1, weight_decay=0.5), Exactly(0.1, 0.5)
    for size in (1e-3, 1e-1, 1e-2, 1e3):
        spread = torch.logspace(-2, 0, 20)[:, None] * torch.logspace(0, -2, 33)
        gradient = (torch.randn(20, 33) * spread * size).to(dtype)
        wanted = exactly.moved(weight.detach(), gradient)
        weight.grad = gradient.t().contiguous().t() if transposed else gradient
        optimizer.step()
        error = 2 * torch.finfo(dtype).eps
        torch.testing.assert_close(weight.detach().double(), wanted, rtol=error, atol=0.1 * error)


def test_one_large_gradient_does_not_throw_the_weights_far() -> None:
    """After many small ones, squares have hardly followed: the step would be as many times too large."""
    weight = torch.nn.Parameter(torch.zeros(20, 33))
    optimizer = Adafactor8bit([weight], lr=0.1, weight_decay=0)
    for _ in range(100):
        weight.grad = torch.randn(20, 33)
        optimizer.step()
    before = weight.detach().clone()
    weight.grad = torch.randn(20, 33) * 1e4
    optimizer.step()
    moved = (weight.detach() - before).square().mean().sqrt()
    torch.testing.assert_close(moved, torch.tensor(0.1 * 0.2), rtol=1e-4, atol=0)


@pytest.mark.parametrize("size", [1e-30, 1e18])
def test_the_least_and_largest_gradients_stay_finite(size: float) -> None:
    """Squares that vanish in float32 would divide by zero."""
    weight = torch.nn.Parameter(torch.zeros(16, 16))
    weight.grad = torch.full((16, 16), size)
    Adafactor8bit([weight], lr=1.0).step()
    assert 0 < weight.detach().abs().max() < 0.201


def test_a_matrix_keeps_a_number_a_row_and_a_column() -> None:
    weight = torch.nn.Parameter(torch.zeros(40, 300))
    weight.grad = torch.ones_like(weight)
    optimizer = Adafactor8bit([weight], VOCAB_SIZE)
    optimizer.step()
    kept = [value for value in optimizer.state[weight].values() if isinstance(value, Tensor)]
    assert sorted(value.numel() for value in kept) == [1, 40, 300]


@pytest.mark.parametrize("shape", [(VOCAB_SIZE, 100), (100, VOCAB_SIZE), (30,), (4, 50), (20, 20, 20)])
def test_what_is_no_matrix_has_moments(shape: tuple[int, ...]) -> None:
    """A table that moved as matrices do would follow the noise of its rare words."""
    ours = torch.nn.Parameter(torch.randn(shape))
    theirs = torch.nn.Parameter(ours.detach().clone())
    optimizer, state = Adafactor8bit([ours], VOCAB_SIZE, lr=0.1), new_state(theirs)
    for _ in range(3):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        optimizer.step()
        with torch.no_grad():
            move(theirs, state, torch.tensor(0.1), rates_of(optimizer.param_groups[0], salt=1))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(20, 30), (30,)])
def test_a_gradient_of_zeros_moves_nothing_but_decay(shape: tuple[int, ...]) -> None:
    weight = torch.ones(shape, requires_grad=True)
    weight.grad = torch.zeros(shape)
    Adafactor8bit([weight], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), torch.full(shape, 0.95))


def test_int8_weights_learn_as_adamw_does_in_float32(taken: Callable[..., float]) -> None:
    """Of what AdamW takes off the loss, INT8 weights without momentum take 95 % or more in the same steps."""
    exact = taken("native", 96, lambda given: torch.optim.AdamW(given, lr=RATE))
    assert exact > 1.5
    assert taken("int8", 96, lambda given: Adafactor8bit(given, VOCAB_SIZE, lr=RATE)) >= 0.95 * exact
