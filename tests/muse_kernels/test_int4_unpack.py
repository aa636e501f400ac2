"""4-bit weights: what is stored is the nearest of 16 values, and comes back the same to the bit from every form."""

from typing import Any

import pytest
import torch
from torch import Tensor

from muse_kernels import int4_unpack, quantise_int4

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Odd rows, groups that are short, one of a single value, and more rows than a program has.
SHAPES = [(1, 1), (3, 2), (5, 127), (2, 128), (33, 129), (70, 300), (4, 513)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
every_lean = pytest.mark.parametrize("lean", ["eager", "triton"])


def by_hand(packed: Tensor, scale: Tensor, in_features: int) -> Tensor:
    """Value by value, in float64."""
    rows = [
        [
            ((packed[row, column // 2].item() >> 4 * (column % 2)) % 16 - 8) * scale[row, column // 128].item()
            for column in range(in_features)
        ]
        for row in range(len(packed))
    ]
    return torch.tensor(rows, dtype=torch.float64)


def some(shape: tuple[int, int], dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """Any bytes, the unused half of an odd row's last one too, and scales of either sign."""
    rows, columns = shape
    packed = torch.randint(256, (rows, -(-columns // 2)), dtype=torch.uint8)
    return packed.to(device), torch.randn(rows, -(-columns // 128)).to(device, dtype)


@pytest.mark.parametrize("implementation", ["reference", "eager", "triton"])
@every_dtype
@every_shape
def test_every_value_is_the_product_in_float64_rounded_once(
    shape: tuple[int, int], dtype: torch.dtype, implementation: Any, device: str
) -> None:
    packed, scale = some(shape, dtype, device)
    found = int4_unpack(packed, scale, shape[1], implementation=implementation)
    assert (found.dtype, found.is_contiguous()) == (dtype, True)
    assert torch.equal(found.cpu(), by_hand(packed.cpu(), scale.cpu(), shape[1]).to(dtype))


@every_lean
def test_rows_and_columns_of_others_are_read_in_place(lean: Any, device: str) -> None:
    packed, scale = some((9, 260), torch.float32, device)
    wanted = int4_unpack(packed, scale, 260, implementation="reference")[2:7]
    strided = torch.stack((packed, packed), -1)[..., 0][2:7], scale.t().contiguous().t()[2:7]
    assert not any(tensor.is_contiguous() for tensor in strided)
    assert torch.equal(int4_unpack(*strided, 260, implementation=lean), wanted)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
@every_shape
def test_what_is_stored_is_the_nearest_of_sixteen_values(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Values that are packed in another order, or scaled by another group, are far from it."""
    weight = torch.randn(shape).to(dtype)
    packed, scale = quantise_int4(weight)
    assert (packed.dtype, packed.shape, scale.dtype) == (torch.uint8, (shape[0], -(-shape[1] // 2)), dtype)
    steps = scale.double().repeat_interleave(128, 1)[:, : shape[1]]
    choices = steps.unsqueeze(-1) * torch.arange(-8, 8)
    least = (choices - weight.double().unsqueeze(-1)).abs().amin(-1)
    error = (int4_unpack(packed, scale.double(), shape[1]) - weight.double()).abs()
    rounding = 16 * torch.finfo(torch.float32).eps  # of a quotient near a tie
    assert (error <= least + rounding * steps.abs()).all()
    assert (error <= steps.abs() * (1 + rounding)).all()
    usual = weight.double() / steps <= 7.5
    assert (error[usual] <= (steps.abs() * (0.5 + rounding))[usual]).all()


@every_dtype
def test_the_largest_value_of_a_group_is_exact(dtype: torch.dtype) -> None:
    """A scale that its dtype rounds would move it."""
    weight = torch.randn(40, 300).to(dtype)
    found = int4_unpack(*quantise_int4(weight), 300)
    for group in (slice(0, 128), slice(128, 256), slice(256, 300)):
        assert torch.equal(found[:, group].abs().amax(1), weight[:, group].abs().amax(1))


def test_normal_weights_err_less_than_with_as_many_steps_on_both_sides() -> None:
    """Which leaves one of 16 values unused."""
    weight = torch.randn(1_000, 128)
    step = weight.abs().amax(1, keepdim=True) / 7
    balanced = (weight / step).round() * step
    ours, theirs = ((found - weight).norm() for found in (int4_unpack(*quantise_int4(weight), 128), balanced))
    assert ours < theirs


@pytest.mark.parametrize("value", [0.0, 1e-45, 3e38])
def test_groups_of_zeros_and_extremes_are_not_spoilt(value: float) -> None:
    weight = torch.tensor([[value, -value, 0.0], [1.0, 2.0, -0.5]])
    packed, scale = quantise_int4(weight)
    found = int4_unpack(packed, scale, 3)
    assert found.isfinite().all()
    assert found[1].tolist() == [1.0, 2.0, -0.5]
    if value in (0.0, 1e-45):
        assert (scale[0, 0], found[0].count_nonzero()) == (1, 0)


@every_dtype
def test_memory_is_what_the_docstring_says(dtype: torch.dtype, memory_watch: Any) -> None:
    packed, scale = some((512, 3_001), dtype, "meta")
    weight_bytes = 512 * 3_001 * dtype.itemsize
    for implementation, scratch in (("triton", 0), ("eager", packed.nbytes)):
        before = memory_watch.live_bytes
        memory_watch.peak_bytes = before
        with memory_watch:
            weight = int4_unpack(packed, scale, 3_001, implementation=implementation)  # type: ignore[arg-type]
        assert weight_bytes <= memory_watch.peak_bytes - before <= weight_bytes + scratch
        del weight


def test_quantising_takes_a_block_of_rows_at_a_time(memory_watch: Any) -> None:
    weight = torch.empty(4_096, 1_000, dtype=torch.bfloat16, device="meta")
    with memory_watch:
        kept = quantise_int4(weight)
    scratch = memory_watch.peak_bytes - sum(tensor.nbytes for tensor in kept)
    assert scratch <= 1.5 * weight.numel() * 1.05  # rows are padded to whole groups


PACKED, SCALE = torch.zeros(4, 2, dtype=torch.uint8), torch.ones(4, 1)


@pytest.mark.parametrize(
    ("packed", "scale", "in_features", "message"),
    [
        (PACKED[0], SCALE, 3, r"packed: expected shape \(out_features, ceil\(in_features / 2\)\), got \(2,\)"),
        (PACKED, SCALE, 5, r"packed: expected shape \(4, 3\), got \(4, 2\)"),
        (PACKED.to(torch.int8), SCALE, 3, "packed: expected dtype uint8, got int8"),
        (PACKED, SCALE.int(), 3, "scale: expected a floating dtype, got int32"),
        (PACKED, SCALE[:3], 3, r"scale: expected shape \(4, 1\), got \(3, 1\)"),
        (PACKED, SCALE.to("meta"), 3, "scale: is on meta, but packed is on cpu"),
    ],
    ids=str,
)
def test_a_bad_argument_is_named(packed: Tensor, scale: Tensor, in_features: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        int4_unpack(packed, scale, in_features)


@pytest.mark.parametrize("weight", [torch.ones(3), PACKED], ids=["vector", "bytes"])
def test_only_a_floating_matrix_is_quantised(weight: Tensor) -> None:
    with pytest.raises(ValueError, match="weight: expected"):
        quantise_int4(weight)


def test_an_unknown_implementation_is_an_error() -> None:
    with pytest.raises(ValueError, match="implementation: 'fast' is unknown"):
        int4_unpack(PACKED, SCALE, 3, implementation="fast")  # type: ignore[arg-type]
