"""Rows of a tensor-train table: values, shapes, repeated ids, errors."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from muse_kernels import tt_embedding, tt_shape

AccuracyCheck = Callable[..., None]
IMPLEMENTATIONS = ["reference", "eager"]


def make_cores(vocab_size: int, d_model: int, rank: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    (v1, v2), (d1, d2) = tt_shape(vocab_size), tt_shape(d_model)
    return [torch.randn(shape).to(dtype) for shape in ((v1, rank, d1), (v2, rank, d2), (rank,))]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_rows_are_the_written_out_sum(implementation: str) -> None:
    core1, core2, theta = make_cores(7, 5, 2, torch.float64)  # 7 = 3 x 3 and 5 = 3 x 2, both cropped
    for i in range(7):
        expected = torch.zeros(3, 2, dtype=torch.float64)
        for r in range(2):
            expected += theta[r].cos() * torch.outer(core1[i // 3, r], core2[i % 3, r])
        row = tt_embedding(torch.tensor(i), core1, core2, theta, vocab_size=7, d_model=5, implementation=implementation)
        torch.testing.assert_close(row, expected.flatten()[:5])


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    ("vocab_size", "d_model", "rank", "shape"),
    [(1, 1, 1, (1,)), (2, 3, 1, (4, 1)), (9, 16, 3, (2, 5)), (50, 7, 5, (0, 3)), (13, 37, 2, (33,)), (6, 6, 1, ())],
    ids=str,
)
def test_odd_sizes(
    vocab_size: int, d_model: int, rank: int, shape: tuple[int, ...], assert_accurate: AccuracyCheck
) -> None:
    def run(implementation: str, *cores: Tensor) -> Tensor:
        return tt_embedding(ids, *cores, vocab_size=vocab_size, d_model=d_model, implementation=implementation)

    ids = torch.randint(vocab_size, shape)
    assert run("eager", *make_cores(vocab_size, d_model, rank)).shape == (*shape, d_model)
    assert_accurate(run, *make_cores(vocab_size, d_model, rank))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("ids", [torch.arange(60).view(6, 10).t(), torch.arange(60, dtype=torch.int32)], ids=str)
def test_transposed_and_int32_ids(ids: Tensor) -> None:
    look_up = partial(tt_embedding, ids, *make_cores(60, 10, 2), vocab_size=60, d_model=10)
    torch.testing.assert_close(look_up(implementation="eager"), look_up(implementation="reference"))


@pytest.mark.usefixtures("small_chunks")
def test_repeated_ids_add_up_in_float32() -> None:
    # Rows so narrow for their rank that a chunk is one token: a bfloat16 sum of 600 ones would stop at 256.
    core1, core2 = (torch.ones(4, 300, 1, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
    theta = torch.zeros(300, dtype=torch.bfloat16)
    tt_embedding(torch.full((600,), 6), core1, core2, theta, vocab_size=16, d_model=1).sum().backward()
    for core, touched in ((core1, 6 // 4), (core2, 6 % 4)):
        expected = torch.zeros_like(core)
        expected[touched] = 600
        assert torch.equal(core.grad, expected)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("bad", [-1, 11])
def test_an_id_out_of_range_is_named(implementation: str, bad: int) -> None:
    cores = make_cores(11, 10, 2)  # 4 x 3 = 12 rows: id 11 would find a row past the crop
    with pytest.raises(IndexError, match=rf"ids: id {bad} is out of range \[0, 11\)"):
        tt_embedding(
            torch.tensor([[0, 3], [bad, 10]]), *cores, vocab_size=11, d_model=10, implementation=implementation
        )


@pytest.mark.parametrize(
    ("position", "change", "message"),
    [
        (0, lambda ids: ids.float(), "ids: expected dtype int64 or int32, got float32"),
        (0, lambda ids: ids.to("meta"), "ids: is on meta, but core1 is on cpu"),
        (1, lambda core1: core1[:3], r"core1: expected shape \(4, 2, 4\), got \(3, 2, 4\)"),
        (1, lambda core1: core1.long(), "core1: expected a floating dtype, got int64"),
        (2, lambda core2: core2[:, :1], r"core2: expected shape \(3, 2, 3\), got \(3, 1, 3\)"),
        (2, lambda core2: core2.half(), "core2: expected dtype float32, got float16"),
        (3, lambda theta: theta[None], r"theta: expected shape \(rank\), got \(1, 2\)"),
        (3, lambda theta: theta.double(), "theta: expected dtype float32, got float64"),
    ],
)
def test_a_bad_argument_is_named(position: int, change: Callable[[Tensor], Tensor], message: str) -> None:
    arguments = [torch.tensor([1, 2]), *make_cores(11, 10, 2)]
    arguments[position] = change(arguments[position])
    with pytest.raises(ValueError, match=message):
        tt_embedding(*arguments, vocab_size=11, d_model=10)


@pytest.mark.parametrize("sizes", [{"vocab_size": 0, "d_model": 10}, {"vocab_size": 11, "d_model": -1}], ids=str)
def test_a_size_below_one_is_an_error(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        tt_embedding(torch.tensor([1]), *make_cores(11, 10, 2), **sizes)
