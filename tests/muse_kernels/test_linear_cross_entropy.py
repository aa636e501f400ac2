"""Fused losses of both heads: agreement with torch, ignored targets, reductions, extremes, errors."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from muse_kernels import linear_cross_entropy, tensor_train_cross_entropy, tt_embedding, tt_shape

AccuracyCheck = Callable[..., None]
HEADS = ["dense", "tensor_train"]
IGNORED = -100


def make_inputs(head: str, tokens: int, vocab_size: int, d_model: int, rank: int = 2) -> list[Tensor]:
    """x and the parameters of the head, on a scale that makes logits of order 1."""
    (v1, v2), (d1, d2) = tt_shape(vocab_size), tt_shape(d_model)
    dense, cores = [(vocab_size, d_model)], [(v1, rank, d1), (v2, rank, d2), (rank,)]
    x = torch.randn(tokens, d_model) * d_model**-0.5
    return [x, *(torch.randn(shape) for shape in (dense if head == "dense" else cores))]


def loss(head: str, implementation: str, targets: Tensor, vocab_size: int, x: Tensor, *parameters: Tensor, **options):
    if head == "dense":
        return linear_cross_entropy(x, *parameters, targets, implementation=implementation, **options)
    return tensor_train_cross_entropy(
        x, *parameters, targets, vocab_size=vocab_size, implementation=implementation, **options
    )


def table(head: str, vocab_size: int, d_model: int, parameters: list[Tensor]) -> Tensor:
    if head == "dense":
        return parameters[0]
    return tt_embedding(torch.arange(vocab_size), *parameters, vocab_size=vocab_size, d_model=d_model)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("implementation", ["reference", "eager"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("head", HEADS)
def test_agrees_with_torch(head: str, reduction: str, implementation: str) -> None:
    x, *parameters = (tensor.double() for tensor in make_inputs(head, 9, 11, 10))
    targets = torch.randint(11, (9,))
    targets[3] = 7
    logits = x @ table(head, 11, 10, parameters).t()
    expected = functional.cross_entropy(logits, targets, ignore_index=7, reduction=reduction)
    got = loss(head, implementation, targets, 11, x, *parameters, ignore_index=7, reduction=reduction)
    torch.testing.assert_close(got, expected)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("tokens", "vocab_size", "d_model"), [(1, 1, 1), (1, 5, 3), (70, 2, 4), (33, 150, 20), (100, 37, 50)], ids=str
)
@pytest.mark.parametrize("head", HEADS)
def test_odd_sizes(
    head: str, tokens: int, vocab_size: int, d_model: int, dtype: torch.dtype, assert_accurate: AccuracyCheck
) -> None:
    def run(implementation: str, *inputs: Tensor) -> Tensor:
        return loss(head, implementation, targets, vocab_size, *inputs)

    targets = torch.randint(vocab_size, (tokens,))
    targets[1::3] = IGNORED
    assert_accurate(run, *(tensor.to(dtype) for tensor in make_inputs(head, tokens, vocab_size, d_model)))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("head", HEADS)
def test_all_targets_equal(head: str, assert_accurate: AccuracyCheck) -> None:
    def run(implementation: str, *inputs: Tensor) -> Tensor:
        return loss(head, implementation, torch.full((200,), 6), 11, *inputs, reduction="sum")

    assert_accurate(run, *(tensor.to(torch.bfloat16) for tensor in make_inputs(head, 200, 11, 10)))


@pytest.mark.usefixtures("small_chunks")
def test_weight_gradient_is_not_summed_in_half_precision() -> None:
    # Two equal logits: each of 1,024 tokens adds 1/2, exactly; a bfloat16 sum of halves stops at 128.
    x, weight = torch.ones(1024, 1, dtype=torch.bfloat16), torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    linear_cross_entropy(x, weight, torch.zeros(1024, dtype=torch.int64), reduction="sum").backward()
    assert weight.grad.flatten().tolist() == [-512, 512]


@pytest.mark.usefixtures("small_chunks")
def test_input_gradient_is_not_summed_in_half_precision() -> None:
    # Blocks of three columns, each adding 3 / 4096, exactly; a bfloat16 sum of them stops at 1 / 2.
    x, weight = (torch.zeros(1, 1).bfloat16().requires_grad_(), torch.ones(4096, 1).bfloat16())
    weight[7] = 0
    linear_cross_entropy(x, weight, torch.tensor([7])).backward()
    assert torch.equal(x.grad, torch.full_like(x, 4095 / 4096))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("head", HEADS)
def test_a_certain_token_sends_no_gradient(head: str, dtype: torch.dtype) -> None:
    # exp(logit - largest) is 1 only if forward and backward find the same logits, to the bit.
    x, *parameters = (tensor.to(dtype) for tensor in make_inputs(head, 200, 50, 37))
    x = (200 * x).requires_grad_()
    largest, columns = (x @ table(head, 50, 37, parameters).t()).float().topk(2)
    certain = largest[:, 0] - largest[:, 1] > 110  # exp(-110) is 0 in float32
    assert certain.sum() > 10
    value = loss(head, "eager", columns[:, 0].masked_fill(~certain, IGNORED), 50, x, *parameters)
    assert value == 0
    assert torch.autograd.grad(value, x)[0].count_nonzero() == 0


@pytest.mark.usefixtures("small_chunks")
def test_a_bias_of_minus_infinity_rules_tokens_out() -> None:
    # Also a whole first block of columns, before any finite logit was seen.
    x, weight = make_inputs("dense", 6, 11, 3)
    bias = torch.zeros(11).index_fill(0, torch.tensor([0, 1, 2, 3, 7]), -torch.inf)
    inputs, targets = [x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()], torch.full((6,), 9)
    ours, theirs = (
        linear_cross_entropy(x, weight, targets, bias=bias, implementation=name) for name in ("eager", "reference")
    )
    torch.testing.assert_close(ours, theirs)
    for got, expected in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("implementation", ["reference", "eager"])
@pytest.mark.parametrize("head", HEADS)
def test_no_token_counts(head: str, implementation: str) -> None:
    inputs = [tensor.requires_grad_() for tensor in make_inputs(head, 6, 11, 10)]
    ignored = torch.full((6,), IGNORED)
    assert loss(head, implementation, ignored, 11, *inputs, reduction="sum") == 0
    mean = loss(head, implementation, ignored, 11, *inputs)
    assert mean.isnan()
    assert all(grad.count_nonzero() == 0 for grad in torch.autograd.grad(mean, inputs))


@pytest.mark.parametrize("implementation", ["reference", "eager"])
@pytest.mark.parametrize("head", HEADS)
def test_no_tokens(head: str, implementation: str) -> None:
    inputs = [tensor.requires_grad_() for tensor in make_inputs(head, 0, 11, 10)]
    none = torch.zeros(0, dtype=torch.int64)
    assert loss(head, implementation, none, 11, *inputs).isnan()
    total = loss(head, implementation, none, 11, *inputs, reduction="sum")
    assert total == 0
    assert all(grad.count_nonzero() == 0 for grad in torch.autograd.grad(total, inputs))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("head", HEADS)
def test_ignored_tokens_change_nothing(head: str) -> None:
    x, *parameters = (tensor.requires_grad_() for tensor in make_inputs(head, 8, 11, 10))
    targets = torch.tensor([1, IGNORED, 3, IGNORED, 10, 0, 2, IGNORED])
    counted = targets != IGNORED
    value = loss(head, "eager", targets, 11, x, *parameters, z_loss=0.1)
    torch.testing.assert_close(value, loss(head, "eager", targets[counted], 11, x[counted], *parameters, z_loss=0.1))
    assert torch.autograd.grad(value, x)[0][~counted].count_nonzero() == 0


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("scale", [1e4, 1e-20])
@pytest.mark.parametrize("head", HEADS)
def test_extreme_logits_stay_finite(head: str, scale: float, assert_accurate: AccuracyCheck) -> None:
    def run(implementation: str, *inputs: Tensor) -> Tensor:
        return loss(head, implementation, targets, 11, *inputs)

    targets = torch.randint(11, (9,))
    x, *parameters = make_inputs(head, 9, 11, 10)
    assert_accurate(run, scale * x, *parameters)


@pytest.mark.parametrize("implementation", ["reference", "eager"])
@pytest.mark.parametrize("bad", [-1, 11])
@pytest.mark.parametrize("head", HEADS)
def test_a_target_out_of_range_is_named(head: str, bad: int, implementation: str) -> None:
    targets = torch.tensor([0, IGNORED, bad])  # the tensor-train head has 12 columns before the crop
    with pytest.raises(IndexError, match=rf"targets: id {bad} is out of range \[0, 11\)"):
        loss(head, implementation, targets, 11, *make_inputs(head, 3, 11, 10))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.ones(3, 1, 10)}, r"x: expected shape \(tokens, d_model\), got \(3, 1, 10\)"),
        ({"x": torch.ones(3, 10).half()}, "expected dtype"),
        ({"targets": torch.zeros(4).long()}, r"targets: expected shape \(3,\), got \(4,\)"),
        ({"targets": torch.zeros(3)}, "targets: expected dtype int64, got float32"),
        ({"targets": torch.zeros(3, device="meta").long()}, "targets: is on meta, but x is on cpu"),
        ({"reduction": "none"}, "reduction: 'none' is unknown; choose from mean, sum"),
    ],
    ids=str,
)
def test_a_bad_argument_is_named(head: str, changes: dict, message: str) -> None:
    x, *parameters = make_inputs(head, 3, 11, 10)
    options = {"x": x, "targets": torch.zeros(3).long(), "reduction": "mean", **changes}
    x, targets = options.pop("x"), options.pop("targets")
    with pytest.raises(ValueError, match=message):
        loss(head, "auto", targets, 11, x, *parameters, **options)


@pytest.mark.parametrize(
    ("weight", "bias", "message"),
    [
        (torch.ones(11), None, r"weight: expected shape \(vocab_size, d_model\), got \(11,\)"),
        (torch.ones(11, 9), None, r"x: expected last dimension 9, got shape \(3, 10\)"),
        (torch.ones(11, 10), torch.ones(10), r"bias: expected shape \(11,\), got \(10,\)"),
        (torch.ones(11, 10), torch.ones(11).half(), "bias: expected dtype float32, got float16"),
        (torch.ones(11, 10, device="meta"), None, "weight: is on meta, but x is on cpu"),
    ],
    ids=str,
)
def test_a_bad_dense_head_is_named(weight: Tensor, bias: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(torch.ones(3, 10), weight, torch.zeros(3).long(), bias=bias)
