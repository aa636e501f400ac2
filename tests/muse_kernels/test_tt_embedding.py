"""Rows of a tensor-train table: values, shapes, repeated ids, errors."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from muse_kernels import tt_embedding, tt_shape
from muse_kernels.tt_embedding import plan

AccuracyCheck = Callable[..., None]
IMPLEMENTATIONS = ["reference", "eager"]
LEAN = ["eager", "triton"]


def make_cores(
    vocab_size: int, d_model: int, rank: int, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> list[Tensor]:
    (v1, v2), (d1, d2) = tt_shape(vocab_size), tt_shape(d_model)
    return [torch.randn(shape).to(device, dtype) for shape in ((v1, rank, d1), (v2, rank, d2), (rank,))]


def rows_and_gradients(implementation: str, ids: Tensor, cores: list[Tensor], **sizes: int) -> list[Tensor]:
    """The rows, and the gradients of the cores for a fixed gradient of the rows."""
    leaves = [core.detach().requires_grad_() for core in cores]
    rows = tt_embedding(ids, *leaves, **sizes, implementation=implementation)
    gradient = torch.randn(rows.shape, generator=torch.Generator().manual_seed(1)).to(rows)
    return [rows.detach(), *torch.autograd.grad(rows, leaves, gradient)]


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


@pytest.mark.parametrize(
    ("vocab_size", "d_model", "rank", "tokens"),
    [
        (1, 1, 1, 1),
        (2, 3, 1, 4),
        (50, 7, 5, 0),
        (50, 37, 9, 300),  # two tiles of the sort; a product over the rank in place of outer products
        (13, 37, 70, 5),  # more ranks than a block holds
        (10, 4161, 2, 3),  # 65 x 65: more columns than a block holds, either way
    ],
    ids=str,
)
def test_kernels_at_odd_sizes(vocab_size: int, d_model: int, rank: int, tokens: int, device: str) -> None:
    ids, cores = torch.randint(vocab_size, (tokens,)).to(device), make_cores(vocab_size, d_model, rank, device=device)
    sizes = {"vocab_size": vocab_size, "d_model": d_model}
    exact = rows_and_gradients("reference", ids, [core.double() for core in cores], **sizes)
    for ours, theirs in zip(rows_and_gradients("triton", ids, cores, **sizes), exact, strict=True):
        largest = max(theirs.abs().max().item(), 1) if theirs.numel() else 1
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-5, atol=1e-6 * largest)


@pytest.mark.parametrize("ids", ["equal", "random", "one row", "sorted"])
def test_a_row_of_many_tokens_is_cut_into_pieces(ids: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The longest row, 50 tokens, takes 13 pieces of 4; others take none, or one that is not full.
    monkeypatch.setattr(plan, "MIN_PIECE", 4)
    monkeypatch.setattr(plan, "MAX_PIECES", 64)
    of = {"equal": torch.full((50,), 7), "random": torch.randint(30, (50,)), "one row": torch.arange(50) % 5 + 10}
    tokens = of.get(ids, torch.arange(50) // 2).to(device)
    cores = make_cores(30, 10, 2, device=device)
    exact = rows_and_gradients("reference", tokens, [core.double() for core in cores], vocab_size=30, d_model=10)
    ours = rows_and_gradients("triton", tokens, cores, vocab_size=30, d_model=10)
    again = rows_and_gradients("triton", tokens, cores, vocab_size=30, d_model=10)
    for got, repeated, expected in zip(ours, again, exact, strict=True):
        torch.testing.assert_close(got, expected.float(), rtol=1e-5, atol=1e-6 * expected.abs().max().item())
        assert torch.equal(got, repeated)


@pytest.mark.parametrize(("tokens", "vocab_size"), [(1, 1), (257, 30), (700, 5)], ids=str)
def test_the_sort_is_stable_and_knows_where_rows_start(
    tokens: int, vocab_size: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Three tiles of tokens at most, each several blocks long: a token's place depends on all of them.
    from muse_kernels.tt_embedding.order import launch_sort

    core1, core2, _ = make_cores(vocab_size, 4, 1)
    ids, cut = torch.randint(vocab_size, (tokens,)), plan.Plan.of(tokens, core1, core2)
    order, counts, starts = (torch.full((size,), -1, dtype=torch.int32, device=device) for size in cut.integer_sizes())
    launch_sort(ids.to(device), core2.shape[0], cut, counts, starts, order)
    rows = (ids // core2.shape[0], ids % core2.shape[0])
    for row, places, begin in zip(rows, order.view(2, -1).cpu(), starts.view(2, -1).cpu(), strict=True):
        assert torch.equal(places.long(), row.sort(stable=True).indices)
        assert torch.equal(begin.long(), torch.searchsorted(row.sort().values, torch.arange(cut.bins)))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("lean", LEAN)
@pytest.mark.parametrize("ids", [torch.arange(60).view(6, 10).t(), torch.arange(60, dtype=torch.int32)], ids=str)
def test_transposed_and_int32_ids(ids: Tensor, lean: str, device: str) -> None:
    cores = make_cores(60, 10, 2, device=device)
    ours = rows_and_gradients(lean, ids.to(device), cores, vocab_size=60, d_model=10)
    theirs = rows_and_gradients("reference", ids.to(device), cores, vocab_size=60, d_model=10)
    for got, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("rank", [2, 9])
def test_large_values_and_angles_in_float16(rank: int, device: str) -> None:
    # Near the end of float16, and angles of many turns, which a fast cosine would get wrong.
    core1, core2, theta = make_cores(11, 10, rank, torch.float16, device)
    cores = [core1.clamp(-2, 2) * 3e4, core2 * 1e-4, theta * 1000]
    ids, sizes = torch.arange(11, device=device), {"vocab_size": 11, "d_model": 10}
    exact = rows_and_gradients("reference", ids, [core.double() for core in cores], **sizes)
    for got, expected in zip(rows_and_gradients("triton", ids, cores, **sizes), exact, strict=True):
        representable = expected.abs() < 6e4
        error = (got - expected)[representable].square().mean().sqrt()
        assert error <= 1e-3 * expected[representable].square().mean().sqrt()


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("lean", "rank"), [("eager", 300), ("triton", 3)])
def test_repeated_ids_add_up_in_float32(lean: str, rank: int, device: str) -> None:
    # Rows so narrow for their rank that a chunk is one token: a bfloat16 sum of 600 ones would stop at 256.
    ones = partial(torch.ones, 4, rank, 1, dtype=torch.bfloat16, device=device, requires_grad=True)
    core1, core2, theta = ones(), ones(), torch.zeros(rank, dtype=torch.bfloat16, device=device)
    ids = torch.full((600,), 6, device=device)
    tt_embedding(ids, core1, core2, theta, vocab_size=16, d_model=1, implementation=lean).sum().backward()
    for core, touched in ((core1, 6 // 4), (core2, 6 % 4)):
        expected = torch.zeros_like(core)
        expected[touched] = 600
        assert torch.equal(core.grad, expected)


@pytest.mark.parametrize("implementation", [*IMPLEMENTATIONS, "triton"])
@pytest.mark.parametrize("bad", [-1, 11])
def test_an_id_out_of_range_is_named(implementation: str, bad: int, device: str) -> None:
    if device != "cpu" and implementation == "triton":
        pytest.skip("on CUDA it is a device-side assert, after which the process can launch nothing more")
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
