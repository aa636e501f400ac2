"""The gated norm: odd sizes, strided inputs, tokens dealt out to programs, extremes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from muse_kernels import gated_rms_norm


def make(device: str, dtype: torch.dtype, batch: int, seq: int, heads: int, p: int) -> list[Tensor]:
    shapes = (batch, seq, heads, p), (batch, seq, heads, p), (heads,), (batch, seq, heads * p), (heads * p,)
    return [torch.randn(shape).to(device, dtype) for shape in shapes]


def run(implementation: str, *inputs: Tensor) -> Tensor:
    return gated_rms_norm(*inputs, implementation=implementation)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 3, 2, 5), (1, 19, 4, 32), (3, 9, 1, 130)], ids=str)
def test_odd_sizes(
    sizes: tuple[int, int, int, int], dtype: torch.dtype, device: str, assert_accurate: Callable[..., None]
) -> None:
    """A skip of another head, a program's last tokens, a weight's gradient that lacks a program."""
    assert_accurate(run, *make(device, dtype, *sizes), implementation="triton")


def test_slices_of_wider_tensors(device: str) -> None:
    wide, gates = torch.randn(2, 5, 20, device=device), torch.randn(2, 5, 10, device=device)
    x, skip, weight = (
        torch.randn(2, 5, 2, 4, device=device),
        torch.randn(2, device=device),
        torch.rand(8, device=device),
    )
    v, gate = wide[..., 12:].unflatten(-1, (2, 4)), gates[..., :8]
    inputs = [tensor.detach().requires_grad_() for tensor in (x, v, skip, gate, weight)]
    results = []
    for name in ("triton", "reference"):
        y = run(name, *inputs)
        results.append([y, *torch.autograd.grad(y, inputs, torch.linspace(-1, 1, 80, device=device).view_as(y))])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_no_tokens(device: str) -> None:
    inputs = [tensor.requires_grad_() for tensor in make(device, torch.float32, 1, 0, 2, 3)]
    y = run("triton", *inputs)
    gradients = torch.autograd.grad(y.sum(), inputs)
    assert y.shape == (1, 0, 6)
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("size", [1e-30, 1e15])
def test_extremes_are_finite_where_the_reference_is(size: float, device: str) -> None:
    inputs = make(device, torch.float32, 1, 3, 2, 4)
    inputs[0] *= size
    inputs[3] *= 100
    torch.testing.assert_close(run("triton", *inputs), run("reference", *inputs))
