"""INT8 weights: rounding of the quantiser, products by blocks, errors."""

import importlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from muse_kernels import int8_linear, quantise_int8


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (33, 70)], ids=str)
def test_quantised_weight_is_within_half_a_step(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = torch.randn(shape).to(dtype)
    quantised, scale = quantise_int8(weight)
    assert (quantised.dtype, quantised.shape, scale.shape) == (torch.int8, weight.shape, shape[:1])
    assert scale.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(quantised.abs().amax(1), torch.full((shape[0],), 127, dtype=torch.int8))
    error = (quantised.double() * scale.double().unsqueeze(1) - weight.double()).abs()
    step = scale.double().unsqueeze(1)
    assert (error <= step / 2 * (1 + 128 * torch.finfo(scale.dtype).eps)).all()  # weight / scale is rounded itself


@pytest.mark.parametrize("value", [0.0, 1e-45, 3e38])
def test_rows_of_zeros_and_extremes_quantise_without_nan(value: float) -> None:
    quantised, scale = quantise_int8(torch.tensor([[value, -value, 0.0], [1.0, 2.0, -0.5]]))
    assert (scale > 0).all()
    assert scale.isfinite().all()
    assert (quantised.float() * scale.unsqueeze(1)).isfinite().all()
    assert quantised[1].tolist() == [64, 127, -32]
    if value in (0.0, 1e-45):
        assert (scale[0], quantised[0].count_nonzero()) == (1, 0)


SIZES = [((1,), 1), ((1, 9), 4), ((3, 2, 5), 17), ((0, 5), 3), ((40, 7), 130), ((2, 270), 9), ((66, 130), 3)]
every_lean = pytest.mark.parametrize("lean", ["eager", "triton"])


@pytest.mark.usefixtures("small_chunks")
@every_lean
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("shape", "out_features"), SIZES, ids=str)
def test_odd_sizes(
    shape: tuple[int, ...],
    out_features: int,
    dtype: torch.dtype,
    lean: str,
    device: str,
    assert_accurate: Callable[..., None],
) -> None:
    def run(implementation: str, x: Tensor, bias: Tensor | None = None, trained: Tensor | None = None) -> Tensor:
        return int8_linear(x, quantised, scale, bias=bias, straight_through=trained, implementation=implementation)

    quantised, scale = (tensor.to(device) for tensor in quantise_int8(torch.randn(out_features, shape[-1])))
    x, bias = torch.randn(shape).to(device, dtype), torch.randn(out_features).to(device, dtype)
    assert_accurate(run, x, implementation=lean)
    assert_accurate(run, x, bias, implementation=lean)
    assert_accurate(run, x, bias, x.new_zeros(out_features, shape[-1]), implementation=lean)


@pytest.fixture
def panels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of rows takes panels, of three rows or columns of the weight at most."""
    fused = importlib.import_module("muse_kernels.int8_linear.fused")
    for name, value in {"MANY_ROWS": 1, "LEAST_PANEL": 3, "PANEL_BYTES": 900, "TILE": 1, "TILES": 1}.items():
        monkeypatch.setattr(fused, name, value)


@pytest.mark.usefixtures("panels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("shape", "out_features"), [((40, 7), 130), ((2, 27), 9), ((66, 75), 8)], ids=str)
def test_panels_of_many_rows(
    shape: tuple[int, ...], out_features: int, dtype: torch.dtype, device: str, assert_accurate: Callable[..., None]
) -> None:
    """The last panel is narrower, and the bias belongs to its panel's columns."""
    from muse_kernels.int8_linear.fused import panel_length

    def run(implementation: str, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return int8_linear(x, quantised, scale, bias=bias, implementation=implementation)

    quantised, scale = (tensor.to(device) for tensor in quantise_int8(torch.randn(out_features, shape[-1])))
    x, bias = torch.randn(shape).to(device, dtype), torch.randn(out_features).to(device, dtype)
    assert 0 < panel_length(x, out_features, shape[-1]) < out_features
    assert_accurate(run, x, implementation="triton")
    assert_accurate(run, x, bias, implementation="triton")


def test_a_panel_of_a_wide_weight_keeps_the_gpu_busy() -> None:
    """What stays in the cache of it are 128 rows: eight tiles of the product, for 132 multiprocessors."""
    from muse_kernels.int8_linear.fused import panel_length

    rows = torch.empty(1024, 11_776, dtype=torch.bfloat16, device="meta")
    assert panel_length(rows, 11_776, 11_776) == 4_096
    assert panel_length(rows.expand(4, *rows.shape).reshape(-1, 11_776), 11_776, 11_776) == 1_024


LAYOUTS = {
    "plain": lambda weight: weight.contiguous(),
    "transposed": lambda weight: weight.t().contiguous().t(),
    "columns": lambda weight: torch.stack([weight, weight], -1)[..., 0],
    "rows": lambda weight: torch.cat([weight, weight], 1)[:, : weight.shape[1]],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("scale_dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_panel_is_dequantised_as_the_definition_does(
    dtype: torch.dtype, scale_dtype: torch.dtype, layout: Callable[[Tensor], Tensor], device: str
) -> None:
    """Sizes that no tile divides; a scale of one column of a matrix."""
    from muse_kernels.int8_linear.kernel import launch_dequantise

    weight = layout(torch.randint(-128, 128, (70, 600), dtype=torch.int8, device=device))
    scale = torch.rand(70, 3, dtype=scale_dtype, device=device)[:, 1]
    block = torch.empty(weight.shape, dtype=dtype, device=device)
    launch_dequantise(weight, scale, block)
    assert torch.equal(block, (weight * scale.float().unsqueeze(-1)).to(dtype))


@every_lean
def test_any_strides(lean: str, device: str) -> None:
    assert_any_strides(lean, 3, device)


@pytest.mark.usefixtures("panels")
def test_panels_of_any_strides(device: str) -> None:
    assert_any_strides("triton", 10, device)


def assert_any_strides(lean: str, in_features: int, device: str) -> None:
    """Transposed and sliced weights, scales and gradients, which are read in place."""
    x = torch.randn(2 * in_features, 9, device=device).t()[:, ::2].requires_grad_()
    weight = torch.randint(-128, 128, (in_features, 12), dtype=torch.int8, device=device).t()
    scale = torch.rand(24, device=device)[::2]
    y = int8_linear(x, weight, scale, implementation=lean)
    expected = int8_linear(x, weight, scale, implementation="reference")
    torch.testing.assert_close(y, expected)
    cotangent = torch.randn(12, 9, device=device).t()
    ours, theirs = (torch.autograd.grad(output, x, cotangent)[0] for output in (y, expected))
    torch.testing.assert_close(ours, theirs)


@every_lean
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_integer_is_exact(lean: str, dtype: torch.dtype, device: str) -> None:
    weight = torch.arange(-128, 128, device=device).to(torch.int8).view(256, 1)
    scale = torch.ones(256, device=device)
    x = torch.ones(1, 1, dtype=dtype, device=device, requires_grad=True)
    y = int8_linear(x, weight, scale, implementation=lean)
    assert torch.equal(y.flatten().float(), weight.flatten().float())
    (grad,) = torch.autograd.grad(y, x, y.detach().sign())
    assert grad.item() == torch.tensor(weight.int().abs().sum().item()).to(dtype).item()


@every_lean
def test_two_runs_give_the_same_bytes(lean: str, device: str) -> None:
    quantised, scale = (tensor.to(device) for tensor in quantise_int8(torch.randn(70, 300)))
    x = torch.randn(20, 300, device=device, requires_grad=True)
    runs = []
    for _ in range(2):
        y = int8_linear(x, quantised, scale, implementation=lean)
        runs.append((y, *torch.autograd.grad(y.square().sum(), x)))
    assert all(map(torch.equal, *runs))


@every_lean
def test_large_activations_do_not_overflow_before_the_scale(lean: str, device: str) -> None:
    # x @ weight_int8 would reach 1000 * 127 * 64 in float16, far past 65,504; times the scale it is small.
    x = torch.full((1, 64), 1000.0, dtype=torch.float16, device=device)
    weight = torch.full((2, 64), 127, dtype=torch.int8, device=device)
    y = int8_linear(x, weight, torch.full((2,), 1e-5, device=device), implementation=lean)
    torch.testing.assert_close(y.cpu(), torch.full((1, 2), 81.28, dtype=torch.float16), rtol=1e-3, atol=0)


@every_lean
def test_small_gradients_do_not_vanish_before_the_weight(lean: str, device: str) -> None:
    # 1e-3 * 1e-5 is below float16's smallest number; times 127 and summed over 64 channels it is not.
    x = torch.zeros(1, 2, dtype=torch.float16, device=device, requires_grad=True)
    weight = torch.full((64, 2), 127, dtype=torch.int8, device=device)
    y = int8_linear(x, weight, torch.full((64,), 1e-5, device=device), implementation=lean)
    (grad,) = torch.autograd.grad(y, x, torch.full_like(y, 1e-3))
    torch.testing.assert_close(grad.cpu(), torch.full((1, 2), 8.128e-5, dtype=torch.float16), rtol=4e-3, atol=0)


@every_lean
def test_what_stands_for_the_weight_is_not_read(lean: str, device: str) -> None:
    """It is one value for all, and its gradient is a matrix of its own."""
    quantised, scale = (tensor.to(device) for tensor in quantise_int8(torch.randn(9, 7)))
    x, nothing = torch.randn(4, 7, device=device), torch.tensor(torch.nan, device=device)
    trained = torch.nn.Parameter(nothing.expand(9, 7))
    y = int8_linear(x, quantised, scale, straight_through=trained, implementation=lean)
    assert torch.equal(y, int8_linear(x, quantised, scale, implementation=lean))
    y.sum().backward()
    torch.testing.assert_close(trained.grad, x.sum(0).expand(9, 7))
    assert trained.grad.is_contiguous()


WEIGHT, SCALE = torch.ones(4, 3, dtype=torch.int8), torch.ones(4)


@pytest.mark.parametrize(
    ("x", "weight", "scale", "bias", "message"),
    [
        (torch.ones(2, 3), WEIGHT[0], SCALE, None, r"weight_int8: expected shape \(out_features, in_features\)"),
        (torch.ones(2, 3), WEIGHT.float(), SCALE, None, "weight_int8: expected dtype int8, got float32"),
        (torch.ones(2, 4), WEIGHT, SCALE, None, r"x: expected last dimension 3, got shape \(2, 4\)"),
        (torch.ones(2, 3).int(), WEIGHT, SCALE, None, "x: expected a floating dtype, got int32"),
        (torch.ones(2, 3), WEIGHT, SCALE[:3], None, r"scale: expected shape \(4,\), got \(3,\)"),
        (torch.ones(2, 3), WEIGHT, SCALE.half(), None, "scale: expected dtype float32 or float64, got float16"),
        (torch.ones(2, 3), WEIGHT, SCALE.clone().requires_grad_(), None, "scale: .* takes no gradient"),
        (torch.ones(2, 3), WEIGHT, SCALE, torch.ones(3), r"bias: expected shape \(4,\), got \(3,\)"),
        (torch.ones(2, 3), WEIGHT, SCALE, torch.ones(4).half(), "bias: expected dtype float32, got float16"),
        (torch.ones(2, 3), WEIGHT, SCALE.to("meta"), None, "scale: is on meta, but x is on cpu"),
    ],
    ids=str,
)
def test_a_bad_argument_is_named(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        int8_linear(x, weight, scale, bias=bias)


@pytest.mark.parametrize("weight", [torch.ones(3), WEIGHT], ids=["vector", "int8"])
def test_only_a_floating_matrix_is_quantised(weight: Tensor) -> None:
    with pytest.raises(ValueError, match="weight: expected"):
        quantise_int8(weight)
