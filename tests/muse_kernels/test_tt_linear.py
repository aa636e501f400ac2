"""Logits against a tensor-train table: agreement with the table, sizes, errors."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from muse_kernels import tt_embedding, tt_linear, tt_shape
from muse_kernels.tt_linear import plan


def make_inputs(vocab_size: int, d_model: int, rank: int, shape: tuple[int, ...], device: str = "cpu") -> list[Tensor]:
    (v1, v2), (d1, d2) = tt_shape(vocab_size), tt_shape(d_model)
    shapes = (*shape, d_model), (v1, rank, d1), (v2, rank, d2), (rank,)
    return [torch.randn(shape).to(device) for shape in shapes]


def logits_and_gradients(
    implementation: str, inputs: list[Tensor], vocab_size: int, gradient_scale: float = 1.0
) -> list[Tensor]:
    """The logits, and the gradient of every input for a fixed gradient of the logits."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    logits = tt_linear(*leaves, vocab_size=vocab_size, implementation=implementation)
    gradient = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16).clamp(-4, 4)
    return [logits.detach(), *torch.autograd.grad(logits, leaves, gradient.to(logits) * gradient_scale)]


def assert_kernels_exact(inputs: list[Tensor], vocab_size: int) -> None:
    """float32 results are those of float64, but for the roundings of a sum; a second run gives the same bytes."""
    exact = logits_and_gradients("reference", [tensor.double() for tensor in inputs], vocab_size)
    ours = logits_and_gradients("triton", inputs, vocab_size)
    again = logits_and_gradients("triton", inputs, vocab_size)
    for got, repeated, expected in zip(ours, again, exact, strict=True):
        largest = expected.abs().max().item() if expected.numel() else 0
        torch.testing.assert_close(got, expected.float(), rtol=1e-5, atol=1e-6 * max(largest, 1))
        assert torch.equal(got, repeated)


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


@pytest.mark.parametrize(
    ("vocab_size", "d_model", "rank", "tokens"),
    [
        (1, 1, 1, 1),
        (2, 3, 1, 4),
        (50, 7, 5, 0),
        (300, 16, 3, 5),  # 18 rows of core1: more than a block
        (4200, 20, 1, 2),  # 65 x 65: more rows of core2 than a block holds
        (20, 4161, 2, 2),  # 65 x 65: more columns than a block holds
        (9, 5, 20, 2),
    ],
    ids=str,
)
def test_kernels_at_odd_sizes(vocab_size: int, d_model: int, rank: int, tokens: int, device: str) -> None:
    assert_kernels_exact(make_inputs(vocab_size, d_model, rank, (tokens,), device), vocab_size)


@pytest.mark.parametrize("tile", [(2, 32, 16), (4, 64, 64), (8, 128, 128)], ids=str)
def test_tiles_of_every_generation(tile: tuple[int, int, int], device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # With the tiles that other dtypes and GPUs take: the last tile of tokens is short, a block of the rank too.
    monkeypatch.setattr(plan, "_tile", lambda core1, gradients: tile)
    assert_kernels_exact(make_inputs(60, 50, 3, (11,), device), 60)


def test_programs_share_sums_unevenly(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nine tiles of tokens for two programs of core1's gradient, and 18 tiles and groups for four of core2's.
    monkeypatch.setattr(plan, "MAX_PROGRAMS", 4)
    inputs = make_inputs(300, 16, 2, (33,), device)
    monkeypatch.setattr(plan, "_tile", lambda core1, gradients: (4, 64, 32))
    cut = plan.Cut.of(33, inputs[1], inputs[2], plan.Blocks.of(33, inputs[1], inputs[2], gradients=True))
    assert (cut.tiles, cut.groups, cut.splits1, cut.splits2) == (9, 2, 2, 4)
    assert_kernels_exact(inputs, 300)


@pytest.mark.parametrize("scales", [(3e4, 1e-4, 1), (1e-4, 1, 1.5e4), (1e3, 1e-3, 1e-4)], ids=str)
def test_float16_neither_overflows_nor_vanishes_between_the_cores(
    scales: tuple[float, float, float], device: str
) -> None:
    # x core1, or a logits' gradient times core2, is past 65,504 or among subnormals, where their results are not:
    # stored as they are, they would be wrong by all or by a tenth.
    x, core1, core2, theta = (tensor.half() for tensor in make_inputs(150, 50, 3, (5,), device))
    inputs = [x, core1.clamp(-2, 2) * scales[0], core2.clamp(-2, 2) * scales[1], theta]
    ours = logits_and_gradients("triton", inputs, 150, scales[2])
    exact = logits_and_gradients("reference", [tensor.double() for tensor in inputs], 150, scales[2])
    for got, expected in zip(ours, exact, strict=True):
        representable = expected.abs() < 6e4
        error = (got - expected)[representable].square().mean().sqrt()
        assert error <= 5e-3 * expected[representable].square().mean().sqrt() + 2**-25  # half a subnormal's unit


@pytest.mark.usefixtures("small_chunks")
def test_core_gradients_add_up_over_chunks_in_float32() -> None:
    # Rows so narrow for the vocabulary that a chunk is one token: a bfloat16 sum would stop after 256 of 500.
    core1, core2 = (torch.ones(32, 1, 1, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
    x, theta = torch.ones(500, 1, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.bfloat16)
    tt_linear(x, core1, core2, theta, vocab_size=1024, implementation="eager").sum().backward()
    assert torch.equal(core1.grad, torch.full_like(core1, 500 * 32))
    assert torch.equal(core2.grad, torch.full_like(core2, 500 * 32))


@pytest.mark.usefixtures("small_chunks")
def test_transposed_tokens(assert_accurate: Callable[..., None]) -> None:
    def run(implementation: str, x: Tensor, *cores: Tensor) -> Tensor:
        return tt_linear(x.transpose(0, 1), *cores, vocab_size=11, implementation=implementation)

    assert_accurate(run, *make_inputs(11, 10, 2, (3, 4)))


def test_kernels_take_any_strides(device: str) -> None:
    x, *cores = make_inputs(11, 10, 2, (3, 4), device)
    assert_kernels_exact([x.transpose(0, 1), *cores], 11)  # its tokens lie at no constant stride: copied
    assert_kernels_exact([x.flatten(0, 1).t().contiguous().t(), *cores], 11)


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
