"""The shapes of a tensor-train table."""

import math

import pytest
import torch

from muse_kernels import tt_embedding, tt_shape


def test_factors_are_the_smallest_near_square_cover() -> None:
    for size in range(1, 3000):
        first, second = tt_shape(size)
        assert first == math.ceil(math.sqrt(size))
        assert first * (second - 1) < size <= first * second


def test_one_past_a_large_square_needs_another_row() -> None:
    root = 2**30  # the square root of root^2 + 1, as a float, is root
    assert tt_shape(root * root + 1) == (root + 1, root)


@pytest.mark.parametrize("size", [0, -3])
def test_a_size_below_one_is_an_error(size: int) -> None:
    with pytest.raises(ValueError, match=f"size: must be at least 1, got {size}"):
        tt_shape(size)


@pytest.mark.parametrize(
    ("vocab_size", "d_model", "rank", "parameters"), [(50257, 1024, 16, 229_904), (10000, 512, 8, 36_808)]
)
def test_parameter_counts(vocab_size: int, d_model: int, rank: int, parameters: int) -> None:
    (v1, v2), (d1, d2) = tt_shape(vocab_size), tt_shape(d_model)
    cores = torch.zeros(v1, rank, d1), torch.zeros(v2, rank, d2), torch.zeros(rank)
    assert sum(core.numel() for core in cores) == parameters
    row = tt_embedding(torch.tensor([vocab_size - 1]), *cores, vocab_size=vocab_size, d_model=d_model)
    assert row.shape == (1, d_model)
