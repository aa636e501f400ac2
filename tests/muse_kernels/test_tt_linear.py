"""Logits against a tensor-train table: agreement with the table, sizes, errors."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from muse_kernels import tt_embedding, tt_linear, tt_shape


def make_inputs(vocab_size: int, d_model: int, rank: int, shape: tuple[int, ...]) -> list[Tensor]:
    (v1, v2), (d1, d2) = tt_shape(vocab_size), tt_shape(d_model)
    shapes = (*shape, d_model), (v1, rank, d1), (v2, rank, d2), (rank,)
    return [torch.randn(shape) for shape in shapes]


@pytest.mark.parametrize("implementation", ["reference", "eager"])
def test_logits_are_products_with_the_rows_of_the_embedding(implementation: str) -> None:
    x, *cores = (tensor.double() for tensor in make_inputs(11, 10, 3, (2, 5)))
    table = tt_embedding(torch.arange(11), *cores, vocab_size=11, d_model=10, implementation="eager")
    logits = tt_linear(x, *cores, vocab_size=11, implementation=implementation)
    torch.testing.assert_close(logits, x @ table.t())


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    ("vocab_size", "d_model", "rank", "shape"),
    [(1, 1, 1, (1,)), (2, 3, 1, (4, 1)), (9, 16, 3, (2, 50)), (50, 7, 5, (0, 3)), (13, 37, 2, (33,)), (6, 6, 1, ())],
    ids=str,
)
def test_odd_sizes(
    vocab_size: int, d_model: int, rank: int, shape: tuple[int, ...], assert_accurate: Callable[..., None]
) -> None:
    def run(implementation: str, *inputs: Tensor) -> Tensor:
        return tt_linear(*inputs, vocab_size=vocab_size, implementation=implementation)

    inputs = make_inputs(vocab_size, d_model, rank, shape)
    assert run("eager", *inputs).shape == (*shape, vocab_size)
    assert_accurate(run, *inputs)


@pytest.mark.usefixtures("small_chunks")
def test_core_gradients_add_up_over_chunks_in_float32() -> None:
    # Rows so narrow for the vocabulary that a chunk is one token: a bfloat16 sum would stop after 256 of 500.
    core1, core2 = (torch.ones(32, 1, 1, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
    x, theta = torch.ones(500, 1, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.bfloat16)
    tt_linear(x, core1, core2, theta, vocab_size=1024).sum().backward()
    assert torch.equal(core1.grad, torch.full_like(core1, 500 * 32))
    assert torch.equal(core2.grad, torch.full_like(core2, 500 * 32))


@pytest.mark.usefixtures("small_chunks")
def test_transposed_tokens(assert_accurate: Callable[..., None]) -> None:
    def run(implementation: str, x: Tensor, *cores: Tensor) -> Tensor:
        return tt_linear(x.transpose(0, 1), *cores, vocab_size=11, implementation=implementation)

    assert_accurate(run, *make_inputs(11, 10, 2, (3, 4)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[0, 0], r"x: expected shape \(\*, d_model\), got \(\)"),
        (lambda x: x[:, :6], r"core1: expected shape \(4, 2, 3\), got \(4, 2, 4\)"),
        (lambda x: x.double(), "x: expected dtype float32, got float64"),
        (lambda x: x.to("meta"), "x: is on meta, but core1 is on cpu"),
    ],
)
def test_a_bad_argument_is_named(change: Callable[[Tensor], Tensor], message: str) -> None:
    x, *cores = make_inputs(11, 10, 2, (5,))
    with pytest.raises(ValueError, match=message):
        tt_linear(change(x), *cores, vocab_size=11)


def test_a_core_of_another_vocabulary_is_named() -> None:
    with pytest.raises(ValueError, match=r"core1: expected shape \(5, 2, 4\), got \(4, 2, 4\)"):
        partial(tt_linear, vocab_size=17)(*make_inputs(11, 10, 2, (5,)))
