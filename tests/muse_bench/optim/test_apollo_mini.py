"""APOLLO-Mini: its state, the size of its moves, the limit to their growth, and that INT8 weights learn with it."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from muse_bench.optim.apollo_mini import ApolloMini, is_projected
from muse_bench.optim.random_signs import random_signs

RATE = 3e-3
pytestmark = pytest.mark.usefixtures("one_thread")


def count(value: int) -> Tensor:
    return torch.tensor(value)


def test_signs_are_balanced_and_those_of_another_draw_or_matrix_unrelated() -> None:
    """A hash that keeps a pattern of its index would always leave out the same part of a gradient."""
    size = 1 << 14
    draws = [random_signs(size, count(draw), salt) for draw in range(4) for salt in range(1, 4)]
    assert torch.equal(draws[0], random_signs(size, count(0), 1))
    for signs in draws:
        assert set(signs.unique().tolist()) == {-1.0, 1.0}
        assert abs(signs.mean()) < 4.5 / size**0.5
        for lag in (1, 2, 16, 64):
            assert abs((signs[lag:] * signs[:-lag]).mean()) < 4.5 / size**0.5
    for one, other in itertools.combinations(draws, 2):
        assert abs((one * other).mean()) < 4.5 / size**0.5


@pytest.mark.parametrize("shape", [(48, 200), (200, 48)])
def test_a_matrix_moves_along_its_gradient_as_far_as_adam(shape: tuple[int, int]) -> None:
    """In the first step Adam moves each value by the rate; projected along the wrong side, it would move otherwise."""
    weight = torch.zeros(shape, requires_grad=True)
    gradient = torch.randn(shape) * 1e-3
    weight.grad = gradient.clone()
    ApolloMini([weight], lr=0.1).step()
    moved = -weight.detach()
    assert torch.nn.functional.cosine_similarity(moved.flatten(), gradient.flatten(), dim=0) > 1 - 1e-5
    assert moved.square().mean().sqrt() == pytest.approx(0.1, rel=0.25)  # |R| / |G| is 1 but for the luck of the signs


def test_its_move_follows_the_formula() -> None:
    """Of the second and later steps: moments, their corrections, the limit to growth and the weight decay."""
    weight = torch.randn(20, 33, requires_grad=True)
    optimizer = ApolloMini([weight], lr=0.01, weight_decay=0.5, redraw=2)
    exact, first, second, last = weight.detach().double(), torch.zeros(33).double(), torch.zeros(33).double(), None
    for done in range(1, 6):
        gradient = torch.randn(20, 33) * done**2
        projected = random_signs(20, count((done - 1) // 2), 1).double() @ gradient.double()
        first, second = 0.9 * first + 0.1 * projected, 0.999 * second + 0.001 * projected.square()
        adams = first / (1 - 0.9**done) / ((second / (1 - 0.999**done)).sqrt() + 1e-8)
        size = adams.norm() / projected.norm() * gradient.double().norm()
        last = size if last is None else min(size, 1.01 * last)
        exact = exact * (1 - 0.01 * 0.5) - 0.01 * 20**0.5 * last * gradient.double() / gradient.double().norm()
        weight.grad = gradient
        optimizer.step()
        torch.testing.assert_close(weight.detach().double(), exact, rtol=1e-4, atol=1e-5)


def test_a_vector_and_a_narrow_matrix_have_adams_moments() -> None:
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((30,), (4, 50))]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    optimizers = ApolloMini(ours, lr=0.1), torch.optim.AdamW(theirs, lr=0.1)
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_the_state_of_a_matrix_is_two_vectors() -> None:
    weight = torch.zeros(64, 300, requires_grad=True)
    weight.grad = torch.ones_like(weight)
    optimizer = ApolloMini([weight])
    optimizer.step()
    sizes = {name: value.numel() for name, value in optimizer.state[weight].items() if isinstance(value, Tensor)}
    assert sizes == {"first": 300, "second": 300, "count": 1, "size": 1}


@pytest.mark.parametrize("shape", [(20, 30), (30,)])
def test_a_gradient_of_zeros_moves_nothing_but_decay(shape: tuple[int, ...]) -> None:
    weight = torch.ones(shape, requires_grad=True)
    weight.grad = torch.zeros(shape)
    ApolloMini([weight], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), torch.full(shape, 0.95))
    assert is_projected(weight) is (len(shape) == 2)


def test_int8_weights_learn_as_adamw_does_in_float32(taken: Callable[..., float]) -> None:
    """Of what AdamW takes off the loss, INT8 weights with rank-1 state take 95 % or more in the same steps."""
    exact = taken("native", 64, lambda given: torch.optim.AdamW(given, lr=RATE))
    assert exact > 1.5
    assert taken("int8", 64, lambda given: ApolloMini(given, lr=RATE)) >= 0.95 * exact
