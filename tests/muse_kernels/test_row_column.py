"""Mean squares by row and column, and scaling by them: both ways against float64, on odd shapes and either layout."""

import pytest
import torch

from muse_kernels.row_column import mean_squares, scale_

every_lean = pytest.mark.parametrize("lean", ["eager", "triton"])
every_layout = pytest.mark.parametrize("transposed", [False, True], ids=["rows", "columns"])
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
SHAPES = [(1, 1), (5, 3), (16, 256), (17, 257), (130, 40), (3, 600), (257, 1)]


def matrix_of(shape: tuple[int, int], dtype: torch.dtype, device: str, transposed: bool) -> torch.Tensor:
    if transposed:
        return torch.randn(shape[::-1], device=device).to(dtype).t()
    return torch.randn(shape, device=device).to(dtype)


@every_lean
@every_layout
@every_dtype
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_mean_squares(lean: str, transposed: bool, dtype: torch.dtype, shape: tuple[int, int], device: str) -> None:
    """A tile over the edge, a strip that another overwrites, rows taken for columns."""
    matrix = matrix_of(shape, dtype, device, transposed)
    rows, columns = mean_squares(matrix, implementation=lean)
    exact = matrix.double().square()
    torch.testing.assert_close(rows.double(), exact.mean(1), rtol=1e-5, atol=0)
    torch.testing.assert_close(columns.double(), exact.mean(0), rtol=1e-5, atol=0)


@every_lean
@every_layout
@every_dtype
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scale(lean: str, transposed: bool, dtype: torch.dtype, shape: tuple[int, int], device: str) -> None:
    """Each value once, by its own row and column; the mean counts all of them and no more."""
    matrix = matrix_of(shape, dtype, device, transposed)
    rows, columns = torch.rand(shape[0], device=device) + 0.5, torch.rand(shape[1], device=device) + 0.5
    exact = matrix.double() * rows.double().unsqueeze(1) * columns.double()
    found = scale_(matrix, rows, columns, implementation=lean)
    error = max(torch.finfo(dtype).eps, 1e-6)
    torch.testing.assert_close(matrix.double(), exact, rtol=error, atol=error * 1e-2)
    torch.testing.assert_close(found.double(), exact.square().mean(), rtol=1e-5, atol=0)


@every_lean
def test_strides_that_no_order_explains(lean: str, device: str) -> None:
    """Read they are copied; in place they are refused, for the copy would be what is scaled."""
    matrix = torch.randn(20, 30, device=device)[:, ::2]
    rows, columns = mean_squares(matrix, implementation=lean)
    torch.testing.assert_close(rows, matrix.square().mean(1))
    torch.testing.assert_close(columns, matrix.square().mean(0))
    with pytest.raises(ValueError, match="contiguous"):
        scale_(matrix, rows, columns, implementation=lean)


@every_lean
def test_what_is_not_finite_shows(lean: str, device: str) -> None:
    """A sum that masks it would let a spoilt gradient pass for a good one."""
    matrix = torch.ones(20, 300, device=device)
    matrix[3, 280] = torch.nan
    rows, columns = mean_squares(matrix, implementation=lean)
    assert rows.isnan().nonzero().tolist() == [[3]]
    assert columns.isnan().nonzero().tolist() == [[280]]
    assert scale_(matrix, torch.ones(20, device=device), torch.ones(300, device=device), implementation=lean).isnan()


def test_wrong_arguments_are_refused() -> None:
    matrix, rows = torch.zeros(2, 3), torch.zeros(2)
    with pytest.raises(ValueError, match="no values"):
        mean_squares(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="no values"):
        scale_(torch.zeros(2, 0), rows, torch.zeros(0))
    with pytest.raises(ValueError, match=r"expected shape \(rows, columns\)"):
        mean_squares(rows)
    with pytest.raises(ValueError, match="columns"):
        scale_(matrix, rows, rows)
    with pytest.raises(ValueError, match="floating"):
        mean_squares(torch.zeros(2, 3, dtype=torch.int8))
