"""Feed-forward of low rank: sizes, ranks, blocks and splits of tokens, extreme values, errors."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from muse_kernels import low_rank_ffn
from muse_kernels.low_rank_ffn import fused

AccuracyCheck = Callable[..., None]
every_lean = pytest.mark.parametrize("lean", ["eager", "triton"])
every_activation = pytest.mark.parametrize("activation", ["relu", "gelu"])


def run(implementation: str, x: Tensor, *parameters: Tensor, activation: str = "relu") -> Tensor:
    return low_rank_ffn(x, parameters[::2], parameters[1::2], activation=activation, implementation=implementation)


def make_inputs(shape: Sequence[int], rank: int, wide: int | None, dtype: torch.dtype, device: str) -> list[Tensor]:
    d_model = shape[-1]
    widths = [d_model, rank, d_model] if wide is None else [d_model, rank, wide, rank, d_model]
    inputs = [torch.randn(tuple(shape))]
    for width, next_width in pairwise(widths):
        inputs += [torch.randn(next_width, width) / max(width, 1) ** 0.5, torch.randn(next_width)]
    return [tensor.to(device, dtype) for tensor in inputs]


def results(implementation: str, inputs: list[Tensor], activation: str = "relu") -> list[Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    y = run(implementation, *leaves, activation=activation)
    return [y, *torch.autograd.grad(y, leaves, torch.linspace(-1, 1, y.numel()).view(y.shape).to(y))]


@pytest.mark.usefixtures("small_chunks")
@every_lean
@every_activation
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("shape", "rank", "wide"), [((1,), 1, None), ((2, 9), 17, None), ((0, 4), 2, 9), ((1, 1), 1, 1), ((3, 5), 2, 7)]
)
def test_odd_sizes(
    shape: Sequence[int],
    rank: int,
    wide: int | None,
    dtype: torch.dtype,
    activation: str,
    lean: str,
    device: str,
    assert_accurate: AccuracyCheck,
) -> None:
    def call(implementation: str, *inputs: Tensor) -> Tensor:
        return run(implementation, *inputs, activation=activation)

    assert_accurate(call, *make_inputs(shape, rank, wide, dtype, device), implementation=lean)


@every_activation
@pytest.mark.parametrize(
    ("shape", "rank", "wide"),
    [((37, 150), 5, None), ((20, 70), 33, 150), ((3, 2, 40), 130, None), ((2, 20), 200, 20)],
    ids=str,
)
def test_several_blocks_of_tokens_columns_and_ranks(
    shape: Sequence[int], rank: int, wide: int | None, activation: str, device: str
) -> None:
    """A block's edge that is read or written beyond, or a bias added once a block."""
    inputs = make_inputs(shape, rank, wide, torch.float32, device)
    exact = results("reference", [tensor.double() for tensor in inputs], activation)
    for ours, truth in zip(results("triton", inputs, activation), exact, strict=True):
        torch.testing.assert_close(ours.double(), truth, rtol=1e-4, atol=2e-5)


def test_splits_of_the_tokens_add_up(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wide layers' gradients, summed by several programs over tokens that no program sees twice."""
    inputs = make_inputs((150, 6), 3, 20, torch.float32, device)
    assert fused.splits(150, 20) == (1, 512)
    whole = results("triton", inputs)
    monkeypatch.setattr(fused, "MIN_SPLIT", 64)
    assert fused.splits(150, 20) == (3, 64)
    for ours, theirs in zip(results("triton", inputs), whole, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("tokens", [1, 511, 512, 513, 8192, 100_000])
@pytest.mark.parametrize("wide", [1, 64, 2048, 4096, 65_536])
def test_splits_cover_the_tokens(tokens: int, wide: int) -> None:
    count, length = fused.splits(tokens, wide)
    assert (count - 1) * length < tokens <= count * length
    assert length % 64 == 0
    assert count <= max(1, 264 * 64 // wide)


@every_lean
@every_activation
@pytest.mark.parametrize("wide", [None, 20])
def test_two_runs_give_the_same_bytes(wide: int | None, activation: str, lean: str, device: str) -> None:
    inputs = make_inputs((40, 12), 4, wide, torch.float32, device)
    assert all(map(torch.equal, results(lean, inputs, activation), results(lean, inputs, activation)))


@every_lean
@every_activation
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("bias", [-3e4, 3e4])
def test_extreme_activations_stay_finite(
    bias: float, dtype: torch.dtype, activation: str, lean: str, device: str
) -> None:
    """exp(-x^2 / 2) and erf far out, whose product with x or with an infinity would be NaN."""
    inputs = make_inputs((3, 5), 2, 7, dtype, device)
    inputs[2].fill_(bias)
    inputs[3].mul_(1e-4)
    for ours, theirs in zip(results(lean, inputs, activation), results("reference", inputs, activation), strict=True):
        assert theirs.isfinite().all()
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05 * theirs.abs().max().item())


@every_lean
def test_a_relu_at_zero_passes_no_gradient_and_a_nan_goes_through(lean: str, device: str) -> None:
    ones = [torch.ones(1, 1, device=device), torch.ones(1, device=device)]
    x = torch.tensor([[-1.0], [float("nan")], [1.0]], device=device, requires_grad=True)  # the first is zero after bias
    y = run(lean, x, *ones, *ones)
    assert y.isnan().flatten().tolist() == [False, True, False]
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert grad.flatten().tolist() == [0.0, 1.0, 1.0]


def test_a_rank_too_large_for_the_kernel_is_eager_or_an_error() -> None:
    inputs = make_inputs((2, 3), 257, None, torch.float32, "cpu")
    assert torch.equal(run("auto", *inputs), run("eager", *inputs))
    with pytest.raises(ValueError, match="implementation: the Triton kernel takes a rank of at most 256, not 257"):
        run("triton", *inputs)


X, DOWN, UP = torch.ones(2, 3), torch.ones(4, 3), torch.ones(3, 4)
DOWN_BIAS, UP_BIAS = DOWN[:, 0], UP[:, 0]


@pytest.mark.parametrize(
    ("x", "weights", "biases", "message"),
    [
        (X, [DOWN], [DOWN_BIAS], "weights: expected two or four, with as many biases; got 1 and 1"),
        (X, [DOWN, UP], [DOWN_BIAS], "weights: expected two or four, with as many biases; got 2 and 1"),
        (X.long(), [DOWN, UP], [DOWN_BIAS, UP_BIAS], "x: expected a floating dtype, got int64"),
        (UP, [DOWN, UP], [DOWN_BIAS, UP_BIAS], r"x: expected last dimension 3, got shape \(3, 4\)"),
        (X, [DOWN, DOWN], [DOWN_BIAS, UP_BIAS], r"weights\[1\]: expected shape \(3, 4\), got \(4, 3\)"),
        (X, [DOWN, UP], [UP_BIAS, UP_BIAS], r"biases\[0\]: expected shape \(4,\), got \(3,\)"),
        (X, [DOWN, UP.half()], [DOWN_BIAS, UP_BIAS], r"weights\[1\]: expected dtype float32, got float16"),
        (X, [DOWN, UP], [DOWN_BIAS, UP_BIAS.to("meta")], r"biases\[1\]: is on meta, but x is on cpu"),
        (X, [DOWN, UP, UP, UP], 4 * [DOWN_BIAS], r"biases\[1\]: expected shape \(3,\), got \(4,\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_argument_is_named(x: Tensor, weights: list[Tensor], biases: list[Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        low_rank_ffn(x, weights, biases)


def test_an_unknown_activation_is_named() -> None:
    with pytest.raises(ValueError, match="activation: 'silu' is unknown; choose from relu, gelu"):
        low_rank_ffn(X, [DOWN, UP], [DOWN_BIAS, UP_BIAS], activation="silu")
