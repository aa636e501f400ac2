"""RMSNorm: values, the residual pair, partial gradients, extreme rows, errors."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from muse_kernels import rms_norm
from muse_kernels.rms_norm import tiles

AccuracyCheck = Callable[..., None]


def run(implementation: str, x: Tensor, weight: Tensor, residual: Tensor | None = None):
    return rms_norm(x, weight, residual=residual, implementation=implementation)


@pytest.mark.parametrize("implementation", ["reference", "eager"])
def test_agrees_with_torch(implementation: str) -> None:
    x, weight = torch.randn(3, 5, 7, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    y = rms_norm(x, weight, eps=0.5, implementation=implementation)
    torch.testing.assert_close(y, functional.rms_norm(x, (7,), weight, eps=0.5))


@pytest.mark.parametrize("implementation", ["reference", "eager", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_residual_returns_the_norm_and_the_sum(implementation: str, dtype: torch.dtype, device: str) -> None:
    x, residual, weight = (torch.randn(shape).to(device, dtype) for shape in ((4, 6), (4, 6), (6,)))
    y, total = rms_norm(x, weight, residual=residual, implementation=implementation)
    assert torch.equal(total, x + residual)
    assert torch.equal(y, rms_norm(total, weight, implementation=implementation))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(2,), (1, 3), (0, 4), (2, 3, 65), (301, 7)], ids=str)
def test_odd_sizes(shape: tuple[int, ...], dtype: torch.dtype, assert_accurate: AccuracyCheck) -> None:
    x, residual, weight = (torch.randn(size).to(dtype) for size in (shape, shape, shape[-1:]))
    assert_accurate(run, x, weight)
    assert_accurate(run, x, weight, residual)
    assert_accurate(run, x, weight.float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(2,), (1, 3), (0, 4), (3, 1), (2, 3, 65), (5, 130)], ids=str)
def test_odd_sizes_of_the_kernel(
    shape: tuple[int, ...], dtype: torch.dtype, device: str, assert_accurate: AccuracyCheck
) -> None:
    x, residual, weight = (torch.randn(size).to(device, dtype) for size in (shape, shape, shape[-1:]))
    assert_accurate(run, x, weight, implementation="triton")
    assert_accurate(run, x, weight.float(), residual, implementation="triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_wider_than_the_registers(
    dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch, assert_accurate: AccuracyCheck
) -> None:
    """Columns past the first block, whose shares of the weight's gradient are summed over rows in memory."""
    for name, value in {"MAX_PROGRAMS": 1, "MAX_BLOCK": 32, "WIDE_BLOCK": 16, "MAX_TILE": 16}.items():
        monkeypatch.setattr(tiles, name, value)
    assert (tiles.tile(2, 37), tiles.programs(2, 37)) == ((1, 16, 4), 1)
    x, residual, weight = (torch.randn(size).to(device, dtype) for size in ((2, 37), (2, 37), (37,)))
    assert_accurate(run, x, weight, residual, implementation="triton")


@pytest.mark.parametrize("programs", [1, 2, 3])
def test_programs_that_go_through_several_tiles(programs: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile that no program takes, or two; a weight's gradient of the last tile only."""
    monkeypatch.setattr(tiles, "MAX_PROGRAMS", programs)
    monkeypatch.setattr(tiles, "MAX_TILE", 32)
    x, weight = (torch.randn(shape, dtype=torch.float64, device=device) for shape in ((11, 9), (9,)))
    results = []
    for dtype, implementation in ((torch.float64, "reference"), (torch.float32, "triton")):
        leaves = [tensor.to(dtype).requires_grad_() for tensor in (x, weight)]
        results.append(torch.autograd.grad(run(implementation, *leaves).square().sum(), leaves))
    for ours, truth in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours.double(), truth, rtol=1e-5, atol=1e-5)


def test_two_runs_give_the_same_bytes(device: str) -> None:
    def results() -> list[Tensor]:
        leaves = [tensor.clone().requires_grad_() for tensor in (x, weight, residual)]
        y, total = run("triton", *leaves)
        return [y, total, *torch.autograd.grad([y, total], leaves, [residual, x])]

    x, weight, residual = (torch.randn(shape, device=device) for shape in ((70, 33), (33,), (70, 33)))
    assert all(map(torch.equal, results(), results()))


@pytest.mark.parametrize("implementation", ["reference", "eager"])
@pytest.mark.parametrize("shape", [(1,), (3, 1)], ids=str)
def test_rows_of_one_number_have_almost_no_gradient(shape: tuple[int, ...], implementation: str) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(1, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(run(implementation, x, weight), x / (x * x + 1e-6).sqrt() * weight)
    assert torch.autograd.gradcheck(lambda *inputs: run(implementation, *inputs), (x, weight))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("lean", "dtype"), [("eager", torch.float64), ("triton", torch.float32)], ids=str)
@pytest.mark.parametrize("used", [[0], [1], [0, 1]], ids=str)
def test_either_output_of_the_residual_pair_may_go_unused(
    used: list[int], lean: str, dtype: torch.dtype, device: str
) -> None:
    def gradients(implementation: str) -> tuple[Tensor | None, ...]:
        outputs = run(implementation, x, weight, residual)
        return torch.autograd.grad(sum(outputs[index].square().sum() for index in used), inputs, allow_unused=True)

    shapes = ((5, 4), (5, 4), (4,))
    x, residual, weight = inputs = [torch.randn(shape, dtype=dtype, device=device) for shape in shapes]
    for tensor in inputs:
        tensor.requires_grad_()
    for ours, theirs in zip(gradients(lean), gradients("reference"), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.usefixtures("small_chunks")
def test_weight_gradient_is_summed_in_float32() -> None:
    # 1,565 ones in six chunks: their bfloat16 sum, rounded six times, is 1,552.
    weight = torch.ones(1, dtype=torch.bfloat16, requires_grad=True)
    rms_norm(torch.ones(1565, 1, dtype=torch.bfloat16), weight).sum().backward()
    assert weight.grad == torch.tensor(1565.0).bfloat16()


@pytest.mark.parametrize("lean", ["eager", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_extreme_rows_stay_finite(lean: str, dtype: torch.dtype, device: str, assert_accurate: AccuracyCheck) -> None:
    largest = min(torch.finfo(dtype).max, 1e18)  # squares of float16's largest value overflow float16
    x = torch.randn(3, 8).clamp(-0.9, 0.9) * torch.tensor([[0.0], [largest], [torch.finfo(dtype).tiny]])
    weight = torch.ones(8, dtype=dtype, device=device)
    assert_accurate(run, x.to(device, dtype), weight, implementation=lean)


@pytest.mark.parametrize(
    ("x", "weight", "residual", "message"),
    [
        (torch.ones(2, 3), torch.ones(4), None, r"x: expected last dimension 4, got shape \(2, 3\)"),
        (torch.ones(2, 3).long(), torch.ones(3), None, "x: expected a floating dtype, got int64"),
        (torch.ones(2, 3), torch.ones(1, 3), None, r"weight: expected shape \(d_model\), got \(1, 3\)"),
        (torch.ones(2, 3), torch.ones(3).half(), None, "weight: expected dtype float32, got float16"),
        (torch.ones(2, 3), torch.ones(3), torch.ones(3), r"residual: expected shape \(2, 3\), got \(3,\)"),
        (torch.ones(2, 3), torch.ones(3), torch.ones(2, 3).half(), "residual: expected dtype float32, got float16"),
        (torch.ones(2, 3), torch.ones(3, device="meta"), None, "weight: is on meta, but x is on cpu"),
    ],
    ids=str,
)
def test_a_bad_argument_is_named(x: Tensor, weight: Tensor, residual: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rms_norm(x, weight, residual=residual)
