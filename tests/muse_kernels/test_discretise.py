"""Decays and scaled values: odd sizes, strided inputs, tokens dealt out to programs, extreme steps."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from muse_kernels import discretise


def run(implementation: str, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    return discretise(*inputs, implementation=implementation)


def make(device: str, dtype: torch.dtype, batch: int, seq: int, heads: int, p: int) -> list[Tensor]:
    shapes = (batch, seq, heads, p), (batch, seq, heads), (heads,), (heads,)
    return [torch.randn(shape).to(device, dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 3, 2, 5), (1, 40, 4, 32), (3, 371, 2, 3)], ids=str)
def test_odd_sizes(
    sizes: tuple[int, int, int, int], dtype: torch.dtype, device: str, assert_accurate: Callable[..., None]
) -> None:
    """Another head's rate or bias, tokens that no program has, sums that lack a program."""
    assert_accurate(run, *make(device, dtype, *sizes), implementation="triton")


def test_slices_of_wider_tensors(device: str) -> None:
    wide, gates = torch.randn(2, 5, 20, device=device), torch.randn(2, 5, 10, device=device)
    bias, rate = torch.randn(2, device=device), torch.randn(2, device=device)
    inputs = [wide[..., 12:].unflatten(-1, (2, 4)), gates[..., 8:], bias, rate]
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    results = []
    for name in ("triton", "reference"):
        outputs = run(name, *leaves)
        weights = [torch.linspace(-1, 1, y.numel(), device=device).view_as(y) for y in outputs]
        results.append([*outputs, *torch.autograd.grad(outputs, leaves, weights)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_extreme_steps_stay_finite(device: str) -> None:
    v, steps, bias, rate = make(device, torch.float32, 1, 3, 2, 4)
    steps = torch.tensor([[[-100.0, 100.0]] * 3], device=device)
    for ours, theirs in zip(run("triton", v, steps, bias, rate), run("reference", v, steps, bias, rate), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_no_tokens(device: str) -> None:
    inputs = [tensor.requires_grad_() for tensor in make(device, torch.float32, 1, 0, 2, 3)]
    outputs = run("triton", *inputs)
    gradients = torch.autograd.grad([y.sum() for y in outputs], inputs)
    assert not any(gradient.any() for gradient in gradients)
