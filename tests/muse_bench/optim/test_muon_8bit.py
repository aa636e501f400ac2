"""Muon with an 8-bit momentum: what is orthogonalised, what it keeps, and that it learns."""

import pytest
import torch

from muse_bench.optim.factored_adam import SMALL
from muse_bench.optim.muon_8bit import Muon8bit, batches, is_matrix, orthogonal


@pytest.mark.parametrize("shape", [(20, 50), (50, 20), (16, 64)])
def test_singular_values_come_near_one(shape: tuple[int, int]) -> None:
    """A wide matrix multiplied from the wrong side, or an iteration that diverges."""
    matrix = torch.randn(shape)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonal(matrix.clone())
    singular = torch.linalg.svdvals(found)
    assert singular.min() > 0.6
    assert singular.max() < 1.3
    assert torch.nn.functional.cosine_similarity(found.flatten(), (left @ right).flatten(), dim=0) > 0.95


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((16, 256), True), ((16, 257), False), ((15, 15), False), ((300,), False), ((9, 9, 9), False)],
)
def test_only_matrices_are_orthogonalised(shape: tuple[int, ...], expected: bool) -> None:
    assert is_matrix(torch.empty(shape)) is expected


def test_it_learns_every_kind_of_parameter() -> None:
    """A matrix, a tall table, a bias: each alone brings the loss down."""
    torch.manual_seed(0)
    inputs, matrix = torch.randn(200, 24), torch.randn(24, 40)
    table, bias = torch.randn(400, 20), torch.randn(40)
    targets = [inputs @ matrix, table, bias]
    parameters = [torch.nn.Parameter(torch.zeros_like(x)) for x in (matrix, table, bias)]
    optimizer = Muon8bit(parameters, lr=0.05)
    losses = []
    for _ in range(200):
        found = [inputs @ parameters[0], parameters[1], parameters[2]]
        parts = [(x - y).square().mean() for x, y in zip(found, targets, strict=True)]
        sum(parts).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append([part.item() for part in parts])
    for first, last in zip(losses[0], losses[-1], strict=True):
        assert last < first / 20


def test_its_state_takes_about_a_byte_a_parameter() -> None:
    weights = [torch.zeros(64, 300, requires_grad=True), torch.zeros(5_000, 2, requires_grad=True)]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer = Muon8bit(weights)
    optimizer.step()
    for weight in weights:
        tensors = [value for value in optimizer.state[weight].values() if isinstance(value, torch.Tensor)]
        size = sum(value.untyped_storage().nbytes() for value in tensors)
        factors = 0 if weight.shape[1] > 2 else 4 * (5_000 + 2)
        assert size <= weight.numel() + 256 + 4 * (weight.numel() / 256 + 1) + factors + 8


def test_a_small_parameter_keeps_its_moments_whole() -> None:
    weight = torch.zeros(SMALL, requires_grad=True)
    weight.grad = torch.ones_like(weight)
    optimizer = Muon8bit([weight])
    optimizer.step()
    assert optimizer.state[weight]["first"].dtype == torch.float32


def test_matrices_that_are_moved_together_move_as_they_do_alone() -> None:
    # a row too many of a neighbour, a transpose forgotten, or another's state would move a matrix elsewhere
    shapes = [(48, 32), (32, 40), (32, 32), (33, 32), (64, 32), (32, 96)]
    torch.manual_seed(3)
    values = [torch.randn(shape) for shape in shapes]
    gradients = [torch.randn(shape) for shape in shapes]
    together = [torch.nn.Parameter(value.clone()) for value in values]
    optimizer = Muon8bit(together, lr=0.1)
    for parameter, gradient in zip(together, gradients, strict=True):
        parameter.grad = gradient.clone()
    optimizer.step()
    for value, gradient, moved in zip(values, gradients, together, strict=True):
        alone = torch.nn.Parameter(value.clone())
        alone.grad = gradient.clone()
        Muon8bit([alone], lr=0.1).step()
        change = alone - value
        assert (moved - alone).norm() < 15 * 2**-8 * change.norm()  # fifteen products in bfloat16


def test_large_matrices_go_alone() -> None:
    large = [torch.nn.Parameter(torch.zeros(2_048, 1_536, device="meta")) for _ in range(2)]
    assert [len(batch) for batch in batches(large)] == [1, 1]


def test_batches_hold_what_fits_together() -> None:
    matrices = [torch.nn.Parameter(torch.zeros(shape)) for shape in [(64, 16), (16, 16), (16, 24), (32, 24), (16, 33)]]
    found = [[tuple(matrix.shape) for matrix in batch] for batch in batches(matrices)]
    assert found == [[(16, 16), (16, 24)], [(16, 33), (64, 16)], [(32, 24)]]
