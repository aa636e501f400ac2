"""Tensor-train heads of higher ranks, by blocks of the table: accuracy, plans, kernels between cores and rows."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from muse_kernels import tensor_train_blocks, tensor_train_cross_entropy, tt_embedding, tt_linear, tt_shape
from muse_kernels.linear_cross_entropy import blocks
from muse_kernels.tensor_train_blocks import Plan, block_columns, expand, gradients, plan_gradients
from muse_kernels.tt_linear import fused

Operation = Callable[..., Tensor]
TOKENS, WIDTH = 70, 21  # d1 * d2 is 25: columns of the table past d_model are dropped
IGNORED = 7


def make_inputs(vocab_size: int, rank: int, device: str, d_model: int = WIDTH, tokens: int = TOKENS) -> list[Tensor]:
    """x and the cores, on a scale that makes logits of order 1."""
    (v1, v2), (d1, d2) = tt_shape(vocab_size), tt_shape(d_model)
    x = torch.randn(tokens, d_model) * (d_model * rank) ** -0.5
    cores = [torch.randn(shape) for shape in ((v1, rank, d1), (v2, rank, d2), (rank,))]
    return [tensor.to(device) for tensor in (x, *cores)]


def logits(implementation: str, vocab_size: int, x: Tensor, *cores: Tensor) -> Tensor:
    return tt_linear(x, *cores, vocab_size=vocab_size, implementation=implementation)


def loss(implementation: str, vocab_size: int, x: Tensor, *cores: Tensor, **options) -> Tensor:
    targets = torch.arange(x.shape[0], device=x.device) * 31 % vocab_size
    return tensor_train_cross_entropy(
        x, *cores, targets, vocab_size=vocab_size, ignore_index=IGNORED, implementation=implementation, **options
    )


def summed_loss(implementation: str, vocab_size: int, x: Tensor, *cores: Tensor) -> Tensor:
    return loss(implementation, vocab_size, x, *cores, reduction="sum", z_loss=0.1)


def results(run: Operation, implementation: str, vocab_size: int, inputs: list[Tensor]) -> list[Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    output = run(implementation, vocab_size, *leaves)
    gradient = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    gradient = torch.ones_like(output) if output.dim() == 0 else gradient.to(output)
    return [output.detach(), *torch.autograd.grad(output, leaves, gradient)]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Blocks of some dozens of ids for some dozens of tokens, wherever ranks allow; the plans that were made."""
    monkeypatch.setattr(tensor_train_blocks, "STEP_WORK", 0)
    monkeypatch.setattr(tensor_train_blocks, "_share_bytes", lambda *_: 0)
    monkeypatch.setattr(blocks, "GRAIN", 16)
    monkeypatch.setattr(blocks, "logits_budget", lambda *_: 5000)
    monkeypatch.setattr(fused, "TABLE_BYTES", 5000)
    monkeypatch.setattr(fused, "FREE_RANKS", 4)
    for rule in ("product_tiles", "statistics_tiles", "sum_tiles"):
        monkeypatch.setattr(blocks, rule, lambda *_: blocks.Tiles(32, 32, 16, 4, 2))
    plans: list[Plan] = []

    def noted(*arguments) -> Plan | None:
        plan = plan_gradients(*arguments)
        plans.extend([] if plan is None else [plan])
        return plan

    monkeypatch.setattr(tensor_train_blocks, "plan_gradients", noted)
    return plans


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("run", "rank", "vocab_size"),
    [(logits, 5, 96), (logits, 16, 97), (logits, 33, 152), (loss, 5, 151), (summed_loss, 16, 97), (loss, 33, 151)],
)
def test_blocks_err_no_more_than_the_reference(
    run: Operation, rank: int, vocab_size: int, dtype: torch.dtype, device: str, small_blocks: list[Plan]
) -> None:
    inputs = [tensor.to(dtype) for tensor in make_inputs(vocab_size, rank, device)]
    exact = results(run, "reference", vocab_size, [tensor.double() for tensor in inputs])
    plain, ours = (results(run, name, vocab_size, inputs) for name in ("reference", "triton"))
    # Forward and backward; rows of 97 logits are not aligned to 16 bytes, and such logits are the kernel's.
    assert len(small_blocks) == (1 if (run, vocab_size) == (logits, 97) else 2)
    assert small_blocks[0] == small_blocks[-1]
    assert small_blocks[0].tokens < TOKENS
    assert small_blocks[0].columns < vocab_size
    for truth, theirs, got in zip(exact, plain, ours, strict=True):
        assert (got.dtype, got.shape) == (theirs.dtype, theirs.shape)
        error, plain_error = ((result.double() - truth).norm() for result in (got, theirs))
        if truth.numel() > 1:
            assert error <= 2 * plain_error + torch.finfo(got.dtype).eps * truth.norm()
        else:  # one number errs little or much by luck
            assert error <= 4 * torch.finfo(dtype).eps * truth.norm()


@pytest.mark.parametrize("run", [logits, loss])
def test_real_tiles_and_one_block(run: Operation, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_train_blocks, "STEP_WORK", 0)
    inputs = [tensor.bfloat16() for tensor in make_inputs(304, 9, device, 40, 130)]
    exact = results(run, "reference", 304, [tensor.double() for tensor in inputs])
    plain, ours = (results(run, name, 304, inputs) for name in ("reference", "triton"))
    for truth, theirs, got in zip(exact[1:], plain[1:], ours[1:], strict=True):
        error, plain_error = ((result.double() - truth).norm() for result in (got, theirs))
        assert error <= 2 * plain_error + torch.finfo(got.dtype).eps * truth.norm()


@pytest.mark.parametrize("run", [logits, loss])
def test_two_runs_give_identical_bytes(run: Operation, device: str, small_blocks: list[Plan]) -> None:
    inputs = [tensor.bfloat16() for tensor in make_inputs(96, 16, device)]
    one, other = (results(run, "triton", 96, inputs) for _ in range(2))
    assert small_blocks
    assert all(torch.equal(first, second) for first, second in zip(one, other, strict=True))


def test_a_certain_token_sends_no_gradient(device: str, small_blocks: list[Plan]) -> None:
    # exp(logit - largest) is 1 only if forward and backward find the same logits, to the bit.
    x, *cores = (tensor.bfloat16() for tensor in make_inputs(97, 16, device))
    x = (800 * x).requires_grad_()
    table = tt_embedding(torch.arange(97, device=device), *cores, vocab_size=97, d_model=WIDTH)
    largest, columns = (x @ table.t()).float().topk(2)
    certain = largest[:, 0] - largest[:, 1] > 110  # exp(-110) is 0 in float32
    assert certain.sum() > 10
    targets = columns[:, 0].masked_fill(~certain, IGNORED)
    value = tensor_train_cross_entropy(x, *cores, targets, vocab_size=97, ignore_index=IGNORED, implementation="triton")
    assert small_blocks
    assert torch.autograd.grad(value, x)[0].count_nonzero() == 0


@pytest.mark.parametrize("needed", [(0,), (1, 2, 3), (2,)], ids=str)
def test_only_gradients_that_are_needed(needed: tuple[int, ...], device: str, small_blocks: list[Plan]) -> None:
    inputs = [tensor.bfloat16() for tensor in make_inputs(97, 5, device)]
    expected = results(loss, "triton", 97, inputs)[1:]
    leaves = [tensor.detach().requires_grad_(index in needed) for index, tensor in enumerate(inputs)]
    got = torch.autograd.grad(loss("triton", 97, *leaves), [leaves[index] for index in needed])
    assert small_blocks
    assert all(torch.equal(gradient, expected[index]) for index, gradient in zip(needed, got, strict=True))


def test_operands_of_any_strides(device: str, small_blocks: list[Plan]) -> None:
    plain = [tensor.bfloat16() for tensor in make_inputs(96, 5, device)]
    strided = [tensor.transpose(0, -1).contiguous().transpose(0, -1) for tensor in plain]
    for run in (logits, loss):
        for one, other in zip(*(results(run, "triton", 96, inputs) for inputs in (plain, strided)), strict=True):
            torch.testing.assert_close(one, other)
    assert small_blocks


@pytest.mark.parametrize("d_model", [40, 1100], ids=str)  # 7 x 6; and 34 x 33, more than a tile holds
def test_rows_and_their_gradient_pass_through_blocks(d_model: int, device: str) -> None:
    # Blocks that begin and end within a row of core1, the last one cut; the gradient of the sum of rows * weight.
    vocab_size, rank, columns = 23, 35, 16
    _, *cores = (tensor.bfloat16() for tensor in make_inputs(vocab_size, rank, device, d_model))
    weight = torch.randn(vocab_size, d_model).bfloat16().to(device)
    wide = [core.double().requires_grad_() for core in cores]
    ids = torch.arange(vocab_size, device=device)
    rows = tt_embedding(ids, *wide, vocab_size=vocab_size, d_model=d_model, implementation="reference")
    expected = torch.autograd.grad(rows, wide, weight.double())

    scratch = torch.empty(columns, d_model, dtype=torch.bfloat16, device=device)
    blocks_of = [slice(0, 16), slice(16, 23)]
    table = torch.cat([expand(tuple(cores), part, scratch).clone() for part in blocks_of])
    assert (table - rows).norm() <= 0.01 * rows.norm()

    def fill(grad_logits: Tensor, part: slice, _: Tensor) -> None:
        grad_logits.copy_(torch.eye(vocab_size, device=device)[:, part])

    plan = Plan(vocab_size, columns, 2)
    _, *got = gradients(weight, tuple(cores), vocab_size, plan, lambda _: fill, (False, True, True, True))
    for ours, theirs in zip(got, expected, strict=True):
        assert (ours - theirs).norm() <= 0.01 * theirs.norm()


def meta_operands(tokens: int, vocab_size: int, d_model: int, rank: int, dtype: torch.dtype):
    x, *cores = (tensor.to(dtype) for tensor in make_inputs(vocab_size, rank, "meta", d_model, tokens))
    return x, tuple(cores)


def test_plans_fit_their_budget_and_take_few_steps() -> None:
    x, cores = meta_operands(8192, 50_257, 1024, 16, torch.bfloat16)
    budget = blocks.logits_budget(8192, 50_257, 1024, 2, 0)
    assert plan_gradients(x, cores, 50_257, budget, 4) == Plan(4096, 1024, 100)
    for smaller in (budget // 2, budget // 3):
        plan = plan_gradients(x, cores, 50_257, smaller, 4)
        assert plan is not None
        assert plan.tokens * (1024 + 16) + 2 * plan.columns * (plan.tokens + 1024) <= smaller


def test_low_ranks_few_tokens_and_float32_take_no_blocks() -> None:
    for tokens, rank, dtype in [(8192, 4, torch.bfloat16), (64, 16, torch.bfloat16), (8192, 16, torch.float32)]:
        x, cores = meta_operands(tokens, 50_257, 1024, rank, dtype)
        assert plan_gradients(x, cores, 50_257, 16 << 20, 4) is None


def test_blocks_of_the_table_alone_are_even() -> None:
    assert block_columns(50_257, 1024, 2, 16 << 20) == 7424  # seven
    assert block_columns(50_257, 1024, 2, 1) == 64
    assert block_columns(100, 1024, 2, 16 << 20) == 256


def test_an_expanded_gradient_is_copied_by_the_block(memory_watch) -> None:
    x, cores = meta_operands(2048, 50_257, 1024, 16, torch.bfloat16)
    output = tt_linear(x.requires_grad_(), *cores, vocab_size=50_257, implementation="triton")
    with memory_watch:
        output.sum().backward()
    assert memory_watch.largest_elements <= 2048 * 2112
