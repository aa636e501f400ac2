"""Sinkhorn descent: the sizes of its moves, what keeps which state, and that INT8 weights learn with it."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from muse_bench.config import ModelConfig
from muse_bench.models.language_model import LanguageModel
from muse_bench.optim.factored_adam import move, new_state, rates_of
from muse_bench.optim.sinkhorn import Sinkhorn, balanced_

RATE, STEPS, VOCAB_SIZE = 3e-3, 200, 64


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small products on several threads mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def of_unlike_sizes(rows: int, columns: int) -> Tensor:
    """A gradient whose rows and columns differ a millionfold, one of each zero."""
    gradient = torch.randn(rows, columns) * torch.logspace(-6, 0, rows)[:, None] * torch.logspace(0, -6, columns)
    gradient[3], gradient[:, 5] = 0, 0
    return gradient


def exactly_balanced(gradient: Tensor) -> Tensor:
    exact = gradient.double()
    for dim in (1, 0):
        exact = (exact / exact.square().mean(dim, keepdim=True).sqrt()).nan_to_num(0)
    return exact


@pytest.mark.parametrize("shape", [(20, 33), (48, 17)])
def test_rows_then_columns_have_one_size_and_those_of_zeros_stay(shape: tuple[int, int]) -> None:
    """A mean over the wrong side, or zero over zero."""
    gradient = of_unlike_sizes(*shape)
    torch.testing.assert_close(balanced_(gradient.clone()).double(), exactly_balanced(gradient), rtol=1e-5, atol=1e-6)


def test_the_least_gradients_do_not_grow_without_bounds() -> None:
    """Their squares vanish in float32: divided by the size that those show, they would not be finite."""
    gradient = torch.full((16, 16), 1e-30)
    assert 0 < balanced_(gradient).abs().max() < 1.001


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_matrix_moves_by_a_fifth_of_the_rate_and_decays(dtype: torch.dtype) -> None:
    """In every step, whatever the size of its gradient; in bfloat16 within the rounding of the weight and the move."""
    weight = torch.nn.Parameter(torch.randn(20, 33, dtype=dtype))
    optimizer = Sinkhorn([weight], lr=0.1, weight_decay=0.5)
    for size in (1e-4, 1e4):
        gradient = (torch.randn(20, 33) * size).to(dtype)
        exact = weight.detach().double() * (1 - 0.1 * 0.5) - 0.1 * 0.2 * exactly_balanced(gradient)
        weight.grad = gradient
        optimizer.step()
        error = 2 * torch.finfo(dtype).eps
        torch.testing.assert_close(weight.detach().double(), exact, rtol=error, atol=0.1 * error)


def test_a_matrix_has_no_state_but_a_count() -> None:
    weight = torch.nn.Parameter(torch.zeros(40, 300))
    weight.grad = torch.ones_like(weight)
    optimizer = Sinkhorn([weight], VOCAB_SIZE)
    optimizer.step()
    kept = [value for value in optimizer.state[weight].values() if isinstance(value, Tensor)]
    assert [value.numel() for value in kept] == [1]


@pytest.mark.parametrize("shape", [(VOCAB_SIZE, 100), (100, VOCAB_SIZE), (30,), (4, 50), (20, 20, 20)])
def test_what_is_no_matrix_has_moments(shape: tuple[int, ...]) -> None:
    """A table that moved as matrices do would follow the noise of its rare words."""
    ours = torch.nn.Parameter(torch.randn(shape))
    theirs = torch.nn.Parameter(ours.detach().clone())
    optimizer, state = Sinkhorn([ours], VOCAB_SIZE, lr=0.1), new_state(theirs)
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
    Sinkhorn([weight], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), torch.full(shape, 0.95))


def texts(batch: int, seq: int) -> Iterator[Tensor]:
    """Random walks (batch, seq) over a vocabulary in which each token has a few likely successors."""
    generator = torch.Generator().manual_seed(1)
    chances = torch.randn(VOCAB_SIZE, VOCAB_SIZE, generator=generator).mul(3).softmax(-1)
    while True:
        tokens = [torch.randint(VOCAB_SIZE, (batch,), generator=generator)]
        for _ in range(seq - 1):
            tokens.append(torch.multinomial(chances[tokens[-1]], 1, generator=generator).squeeze(1))
        yield torch.stack(tokens, 1)


def losses(weight_format: str, exact: bool) -> list[float]:
    """Of a model of four layers, d_model 96, trained by AdamW if exact."""
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB_SIZE, "d_model": 96, "n_layers": 4, "n_heads": 2, "max_seq_len": 32}
    model = LanguageModel(ModelConfig(**sizes, positions="learned", weight_format=weight_format))
    given = model.parameters()
    optimizer = torch.optim.AdamW(given, lr=RATE) if exact else Sinkhorn(given, VOCAB_SIZE, lr=RATE)
    found = []
    for ids in itertools.islice(texts(8, 33), STEPS):
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


def test_int8_weights_learn_as_adamw_does_in_float32() -> None:
    """Of what AdamW takes off the loss, INT8 weights without state take 95 % or more in the same steps."""
    exact, ours = losses("native", exact=True), losses("int8", exact=False)
    taken = [found[0] - sum(found[-20:]) / 20 for found in (exact, ours)]
    assert taken[0] > 1.5
    assert taken[1] >= 0.95 * taken[0]
