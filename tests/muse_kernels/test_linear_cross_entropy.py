"""Fused losses of both heads: agreement with torch, ignored targets, reductions, extremes, errors."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from muse_kernels import linear_cross_entropy, tensor_train_cross_entropy, tt_embedding, tt_shape
from muse_kernels.linear_cross_entropy import blocks

AccuracyCheck = Callable[..., None]
HEADS = ["dense", "tensor_train"]
IGNORED = -100
# A wide dense head takes other kernels than a narrow one; these tests make both of small matrices.
KERNELS = [("dense", "triton-narrow"), ("dense", "triton-wide"), ("tensor_train", "triton")]
LEANS = [*((head, "eager") for head in HEADS), *KERNELS]
ALL = [*((head, "reference") for head in HEADS), *LEANS]
every_kernel = pytest.mark.parametrize(("head", "lean"), KERNELS, indirect=["lean"])
every_lean = pytest.mark.parametrize(("head", "lean"), LEANS, indirect=["lean"])
every_implementation = pytest.mark.parametrize(("head", "lean"), ALL, indirect=["lean"])
dense_leans = pytest.mark.parametrize("lean", ["eager", "triton-narrow", "triton-wide"], indirect=True)


@pytest.fixture
def lean(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """An implementation; a Triton dense head is cut into tiles and blocks so small that there are several."""
    name, _, width = request.param.partition("-")
    if width:
        monkeypatch.setattr(blocks, "is_narrow", lambda *_: width == "narrow")
        for rule in ("product_tiles", "statistics_tiles", "sum_tiles"):
            monkeypatch.setattr(blocks, rule, lambda *_: blocks.Tiles(32, 32, 16, 4, 2))
        tiles = lambda x, columns, **_: blocks.Tiles(32, 64, blocks.padded(columns), 4, 2)  # noqa: E731
        monkeypatch.setattr(blocks, "narrow_tiles", tiles)
    return name


def make_inputs(head: str, tokens: int, vocab_size: int, d_model: int, rank: int = 2, device: str = "cpu"):
    """x and the parameters of the head, on a scale that makes logits of order 1."""
    (v1, v2), (d1, d2) = tt_shape(vocab_size), tt_shape(d_model)
    dense, cores = [(vocab_size, d_model)], [(v1, rank, d1), (v2, rank, d2), (rank,)]
    x = torch.randn(tokens, d_model) * d_model**-0.5
    inputs = [x, *(torch.randn(shape) for shape in (dense if head == "dense" else cores))]
    return [tensor.to(device) for tensor in inputs]


def assert_about_as_accurate(
    run: Callable[..., Tensor], lean: str, targets: Tensor, vocab_size: int, inputs: list[Tensor]
) -> None:
    """The rule of assert_accurate on one draw, as kernels run slowly in the interpreter.

    A few numbers, such as a loss, err little or much by luck: they are held to the inputs' precision instead.
    """

    def outputs_and_gradients(name: str, tensors: list[Tensor]) -> list[Tensor]:
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        value = run(name, targets, vocab_size, *leaves)
        return [value.detach(), *torch.autograd.grad(value, leaves)]

    exact = outputs_and_gradients("reference", [tensor.double() for tensor in inputs])
    plain, ours = (outputs_and_gradients(name, inputs) for name in ("reference", lean))
    for truth, theirs, got in zip(exact, plain, ours, strict=True):
        assert (got.dtype, got.shape) == (theirs.dtype, theirs.shape)
        error, plain_error = ((result.double() - truth).norm() for result in (got, theirs))
        if truth.numel() >= 16:
            assert error <= 2 * plain_error + torch.finfo(got.dtype).eps * truth.norm()
        else:
            assert error <= 4 * torch.finfo(inputs[0].dtype).eps * truth.norm()


def loss(head: str, implementation: str, targets: Tensor, vocab_size: int, x: Tensor, *parameters: Tensor, **options):
    if head == "dense":
        return linear_cross_entropy(x, *parameters, targets, implementation=implementation, **options)
    return tensor_train_cross_entropy(
        x, *parameters, targets, vocab_size=vocab_size, implementation=implementation, **options
    )


def table(head: str, vocab_size: int, d_model: int, parameters: list[Tensor]) -> Tensor:
    if head == "dense":
        return parameters[0]
    ids = torch.arange(vocab_size, device=parameters[0].device)
    return tt_embedding(ids, *parameters, vocab_size=vocab_size, d_model=d_model)


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
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@every_kernel
def test_odd_sizes_of_kernels(head: str, lean: str, dtype: torch.dtype, device: str) -> None:
    targets = torch.randint(150, (33,)).to(device)
    targets[1::3] = IGNORED
    inputs = [tensor.to(dtype) for tensor in make_inputs(head, 33, 150, 20, device=device)]
    assert_about_as_accurate(partial(loss, head), lean, targets, 150, inputs)


@every_kernel
def test_one_token_of_two_ids(head: str, lean: str, device: str, assert_accurate: AccuracyCheck) -> None:
    def run(implementation: str, *inputs: Tensor) -> Tensor:
        return loss(head, implementation, torch.ones(1, dtype=torch.int64, device=device), 2, *inputs)

    inputs = make_inputs(head, 1, 2, 1, device=device)
    assert_accurate(run, *(tensor.bfloat16() for tensor in inputs), implementation=lean)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("head", HEADS)
def test_all_targets_equal(head: str, assert_accurate: AccuracyCheck) -> None:
    def run(implementation: str, *inputs: Tensor) -> Tensor:
        return loss(head, implementation, torch.full((200,), 6), 11, *inputs, reduction="sum")

    assert_accurate(run, *(tensor.to(torch.bfloat16) for tensor in make_inputs(head, 200, 11, 10)))


@every_kernel
def test_all_targets_equal_in_kernels(head: str, lean: str, device: str) -> None:
    inputs = [tensor.bfloat16() for tensor in make_inputs(head, 70, 11, 10, device=device)]
    targets = torch.full((70,), 6, device=device)
    assert_about_as_accurate(partial(loss, head, reduction="sum"), lean, targets, 11, inputs)


@pytest.mark.usefixtures("small_chunks")
@dense_leans
def test_weight_gradient_is_not_summed_in_half_precision(lean: str, device: str) -> None:
    # Two equal logits: each of 1,024 tokens adds 1/2, exactly; a bfloat16 sum of halves stops at 128.
    x = torch.ones(1024, 1, dtype=torch.bfloat16, device=device)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, device=device, requires_grad=True)
    targets = torch.zeros(1024, dtype=torch.int64, device=device)
    linear_cross_entropy(x, weight, targets, reduction="sum", implementation=lean).backward()
    assert weight.grad.flatten().tolist() == [-512, 512]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("lean", ["eager", "triton-narrow"], indirect=True)
def test_input_gradient_is_not_summed_in_half_precision(lean: str, device: str) -> None:
    # Blocks of a few columns, each adding as many / 4096, exactly; a bfloat16 sum of them stops at 1 / 2.
    x = torch.zeros(1, 1, dtype=torch.bfloat16, device=device, requires_grad=True)
    weight = torch.ones(4096, 1, dtype=torch.bfloat16, device=device)
    weight[7] = 0
    linear_cross_entropy(x, weight, torch.tensor([7], device=device), implementation=lean).backward()
    assert torch.equal(x.grad, torch.full_like(x, 4095 / 4096))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_products_are_not_summed_in_half_precision(dtype: torch.dtype, device: str) -> None:
    # Terms of 2^-12, exact in 24 bits, vanish beside 1 in 16; a nan and an infinity come through.
    from muse_kernels.linear_cross_entropy.wide_kernel import launch_add_product

    left, total = torch.ones(3, 1, dtype=dtype, device=device), torch.empty(3, 5, dtype=dtype, device=device)
    lower, tiles = torch.empty(3, 5, dtype=torch.uint8, device=device), blocks.Tiles(16, 16, 16, 4, 2)
    first, term = torch.ones(1, 5, dtype=dtype, device=device), torch.full_like(left[:1].expand(1, 5), 2**-12)
    first[0, 3:] = torch.tensor([torch.nan, torch.inf])
    for step in range(20):
        launch_add_product(left, term if step else first, total, lower, tiles, first=step == 0, last=step == 19)
    expected = torch.tensor([1 + 19 * 2**-12] * 3 + [torch.nan, torch.inf]).to(device, dtype)
    torch.testing.assert_close(total, expected.expand(3, 5), rtol=0, atol=0, equal_nan=True)


@pytest.fixture(params=["pointers", "descriptors"])
def loads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """How kernels load tiles: by pointers, or by descriptors as a Hopper GPU's copy engine takes them."""
    by_descriptors = request.param == "descriptors"
    if by_descriptors and device == "cuda" and not blocks.has_copy_engine(torch.device(device)):
        pytest.skip("this GPU has no copy engine for tiles")
    monkeypatch.setattr(blocks, "has_copy_engine", lambda _: by_descriptors)


def biased_loss(implementation: str, targets: Tensor, _: int, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return linear_cross_entropy(x, weight, targets, bias=bias, implementation=implementation)


@pytest.mark.usefixtures("loads")
@pytest.mark.parametrize("lean", ["triton-wide"], indirect=True)
def test_steps_of_every_kind(lean: str, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    # Logits in the weight's gradient, in both, in the scratch; sums for the bias in parts; tiles past every end.
    tokens, vocab_size, width = 35, 251, 40
    for name, value in {"GRAIN": 8, "SUMS_BYTES": 1, "logits_budget": lambda *_: 16 * tokens * 2}.items():
        monkeypatch.setattr(blocks, name, value)
    steps, _ = blocks.vocabulary_blocks(tokens, vocab_size, width, 2, 16 * tokens * 2, gradient=True)
    kinds = [tuple(block.in_gradient for block in step) for step in steps]
    assert set(kinds) == {(True,), (True, False), (False,)}
    inputs = [*make_inputs("dense", tokens, vocab_size, width, device=device), torch.randn(vocab_size, device=device)]
    targets = torch.randint(vocab_size, (tokens,)).to(device)
    targets[1::3] = IGNORED
    assert_about_as_accurate(biased_loss, lean, targets, vocab_size, [tensor.bfloat16() for tensor in inputs])


@pytest.mark.usefixtures("loads")
@pytest.mark.parametrize("lean", ["triton-wide"], indirect=True)
def test_what_lies_past_the_last_token_adds_nothing_to_a_bias(lean: str, device: str) -> None:
    # Every logit is -160; beside that, the logit 0 of a token of zeros would be infinitely likely.
    inputs = [torch.full((5, 16), 10.0), -torch.ones(40, 16), torch.zeros(40)]
    targets = torch.arange(5, device=device)
    assert_about_as_accurate(biased_loss, lean, targets, 40, [tensor.to(device, torch.bfloat16) for tensor in inputs])


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@every_lean
def test_a_certain_token_sends_no_gradient(head: str, lean: str, dtype: torch.dtype, device: str) -> None:
    # exp(logit - largest) is 1 only if forward and backward find the same logits, to the bit.
    x, *parameters = (tensor.to(dtype) for tensor in make_inputs(head, 200, 50, 37, device=device))
    x = (200 * x).requires_grad_()
    largest, columns = (x @ table(head, 50, 37, parameters).t()).float().topk(2)
    certain = largest[:, 0] - largest[:, 1] > 110  # exp(-110) is 0 in float32
    assert certain.sum() > 10
    value = loss(head, lean, columns[:, 0].masked_fill(~certain, IGNORED), 50, x, *parameters)
    assert value == 0
    assert torch.autograd.grad(value, x)[0].count_nonzero() == 0


@pytest.mark.usefixtures("small_chunks")
@dense_leans
def test_a_bias_of_minus_infinity_rules_tokens_out(lean: str, device: str) -> None:
    # Also a whole first tile of columns, before any finite logit was seen.
    x, weight = make_inputs("dense", 6, 70, 3, device=device)
    bias = torch.zeros(70, device=device)
    bias[:33] = bias[40] = -torch.inf
    inputs = [x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
    targets = torch.full((6,), 39, device=device)
    ours, theirs = (
        linear_cross_entropy(x, weight, targets, bias=bias, implementation=name) for name in (lean, "reference")
    )
    torch.testing.assert_close(ours, theirs)
    for got, expected in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        torch.testing.assert_close(got, expected)


@every_implementation
def test_no_token_counts(head: str, lean: str, device: str) -> None:
    inputs = [tensor.requires_grad_() for tensor in make_inputs(head, 6, 11, 10, device=device)]
    ignored = torch.full((6,), IGNORED, device=device)
    assert loss(head, lean, ignored, 11, *inputs, reduction="sum") == 0
    mean = loss(head, lean, ignored, 11, *inputs)
    assert mean.isnan()
    assert all(grad.count_nonzero() == 0 for grad in torch.autograd.grad(mean, inputs))


@every_implementation
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_no_tokens(head: str, lean: str, dtype: torch.dtype, device: str) -> None:
    inputs = [tensor.to(dtype).requires_grad_() for tensor in make_inputs(head, 0, 11, 10, device=device)]
    none = torch.zeros(0, dtype=torch.int64, device=device)
    assert loss(head, lean, none, 11, *inputs).isnan()
    total = loss(head, lean, none, 11, *inputs, reduction="sum")
    assert total == 0
    assert all(grad.count_nonzero() == 0 for grad in torch.autograd.grad(total, inputs))


@pytest.mark.usefixtures("small_chunks")
@every_lean
def test_ignored_tokens_change_nothing(head: str, lean: str, device: str) -> None:
    x, *parameters = (tensor.requires_grad_() for tensor in make_inputs(head, 8, 11, 10, device=device))
    targets = torch.tensor([1, IGNORED, 3, IGNORED, 10, 0, 2, IGNORED], device=device)
    counted = targets != IGNORED
    value = loss(head, lean, targets, 11, x, *parameters, z_loss=0.1)
    torch.testing.assert_close(value, loss(head, lean, targets[counted], 11, x[counted], *parameters, z_loss=0.1))
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


@pytest.mark.parametrize("scale", [1e4, 1e-20])
@every_kernel
def test_extreme_logits_stay_finite_in_kernels(head: str, lean: str, scale: float, device: str) -> None:
    x, *parameters = make_inputs(head, 9, 11, 10, device=device)
    targets = torch.randint(11, (9,)).to(device)
    assert_about_as_accurate(partial(loss, head), lean, targets, 11, [scale * x, *parameters])


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("tokens", "vocab_size", "d_model", "rank"), [(130, 300, 8, 0), (5, 300, 140, 0), (5, 1100, 30, 9)], ids=str
)
def test_real_tiles_and_splits(
    tokens: int, vocab_size: int, d_model: int, rank: int, dtype: torch.dtype, device: str
) -> None:
    # Tiles, parts and blocks as large as they really are: more than one of each, the last of each not full.
    head = "tensor_train" if rank else "dense"
    inputs = [tensor.to(dtype) for tensor in make_inputs(head, tokens, vocab_size, d_model, rank, device)]
    targets = torch.randint(vocab_size, (tokens,)).to(device)
    assert_about_as_accurate(partial(loss, head), "triton", targets, vocab_size, inputs)


@every_lean
def test_two_runs_give_identical_bytes(head: str, lean: str, device: str) -> None:
    inputs = [tensor.bfloat16().requires_grad_() for tensor in make_inputs(head, 50, 70, 20, device=device)]
    targets = torch.randint(70, (50,)).to(device)
    runs = [torch.autograd.grad(loss(head, lean, targets, 70, *inputs), inputs) for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize(
    ("tokens", "vocab_size", "width", "budget"),
    [
        (8192, 50_257, 768, 10 << 20),
        (32_768, 50_257, 768, 40 << 20),
        (1024, 10_000, 512, 1 << 20),
        (1, 3, 129, 1 << 20),
        (300, 20_011, 600, 1 << 20),
    ],
    ids=str,
)
def test_blocks_cover_the_vocabulary_and_fit_where_they_lie(
    tokens: int, vocab_size: int, width: int, budget: int, gradient: bool
) -> None:
    steps, elements = blocks.vocabulary_blocks(tokens, vocab_size, width, 2, budget, gradient=gradient)
    plan = [block for step in steps for block in step]
    assert [block.start for block in plan[1:]] == [block.stop for block in plan[:-1]]
    assert (plan[0].start, plan[-1].stop) == (0, vocab_size)
    assert 2 * elements <= budget
    for step in steps:
        assert [block.in_gradient for block in step] in ([True], [False], [True, False])
        for block in step:
            logits = tokens * block.stride
            if block.in_gradient:
                assert gradient
                assert logits + blocks.GRAIN <= (vocab_size - step[-1].stop) * width
            else:
                assert logits <= elements


@pytest.mark.parametrize(("tokens", "most"), [(4096, 20), (8192, 31), (16_384, 45), (32_768, 58)])
def test_few_steps_pass_the_sums_of_the_gradient_of_x_through_memory(tokens: int, most: int) -> None:
    # The scratch alone would take 99.
    budget = blocks.logits_budget(tokens, 50_257, 768, 2, tokens * 768)
    steps, _ = blocks.vocabulary_blocks(tokens, 50_257, 768, 2, budget, gradient=True)
    assert len(steps) <= most


def test_tiles_of_forward_are_as_many_as_places_for_them() -> None:
    few, many = (torch.empty(tokens, 768, dtype=torch.bfloat16, device="meta") for tokens in (2048, 8192))
    assert [blocks.statistics_tiles(x, 50_257).warps for x in (few, many)] == [8, 4]
    assert blocks.even_splits(64, 393, blocks.MOST_SPLITS, resident=2) == 4  # 256 programs of 264 at a time


def test_splits_fill_the_processors_and_keep_to_their_limit() -> None:
    assert blocks.even_splits(64, 197, 16) == 2  # 128 programs of 132 at a time
    assert blocks.even_splits(8, 40, 16) == 16
    assert blocks.even_splits(8, 5, 16) == 5
    assert blocks.even_splits(8, 40, 0) == 1
    assert blocks.even_splits(1000, 40, 16) == 1
