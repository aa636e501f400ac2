"""The matrix-state recurrence: chunks and segments, extreme decays, shared heads, continuation and single steps."""

import importlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from muse_kernels import semiseparable_mix, semiseparable_step

AccuracyCheck = Callable[..., None]
autograd = importlib.import_module("muse_kernels.semiseparable_mix.autograd")
plan = importlib.import_module("muse_kernels.semiseparable_mix.plan")

FEW_STEPS = 16
LEAN = ["eager", "triton"]
every_lean = pytest.mark.parametrize("lean", LEAN)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


@pytest.fixture(params=[1, 2], ids="span{}".format)
def short_chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of a few steps, segments of one or two chunks: a short sequence takes every path."""
    monkeypatch.setattr(autograd, "CHUNK", 5)
    monkeypatch.setattr(plan, "chunk_length", lambda dtype: 16)
    monkeypatch.setattr(plan, "WALKED", 1)
    monkeypatch.setattr(plan, "LEAST_SPAN", request.param)


def make(
    device: str, dtype: torch.dtype, seq: int, *, shared: int = 1, n: int = 5, p: int = 6, batch: int = 1
) -> list[Tensor]:
    """q, k, v, log_decay and the initial state, for two heads."""
    q, k = (torch.randn(batch, seq, 2 // shared, n) for _ in range(2))
    v, log_decay = torch.randn(batch, seq, 2, p), -torch.rand(batch, seq, 2)
    state = torch.randn(batch, 2, n, p)
    return [tensor.to(device, dtype) for tensor in (q, k, v, log_decay)] + [state.to(device)]


def results(lean: str, inputs: list[Tensor]) -> list[Tensor]:
    """o, the final state, and the gradients of every input."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    outputs = semiseparable_mix(*leaves[:4], initial_state=leaves[4], return_final_state=True, implementation=lean)
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(x.shape, generator=generator).to(torch.bfloat16).to(x) for x in outputs]
    gradients = torch.autograd.grad(outputs, leaves, cotangents, allow_unused=True, materialize_grads=True)
    return [x.detach() for x in (*outputs, *gradients)]


def assert_as_accurate_as_the_reference(lean: str, inputs: list[Tensor]) -> None:
    """The rule of `assert_accurate`; float32 results of 16-bit inputs are held to those inputs.

    A result of few numbers may err little by luck: errors of a short sequence are pooled over several draws. Signs are
    drawn anew, since terms that cancel in one draw cancel in every draw that differs in sizes alone.
    """
    draws = [inputs]
    if inputs[0].shape[1] < FEW_STEPS:
        draws += [redrawn(inputs) for _ in range(15)]
    squares = torch.tensor([mean_squares(lean, draw) for draw in draws], dtype=torch.float64).mean(0).sqrt()
    for index, (error, allowed, size) in enumerate(squares.tolist()):
        assert error <= 2 * allowed + torch.finfo(inputs[0].dtype).eps * size, (index, error, allowed, size)


def redrawn(inputs: list[Tensor]) -> list[Tensor]:
    """The inputs shrunk by up to a quarter, all but the decays with random signs."""
    shrunk = [tensor * (1 - torch.rand_like(tensor) / 4) for tensor in inputs]
    return [x if index == 3 else x * (2 * torch.randint_like(x, 2) - 1) for index, x in enumerate(shrunk)]


def mean_squares(lean: str, inputs: list[Tensor]) -> list[list[float]]:
    """For each result: of our error, of the reference's in the same dtype, of the true value."""
    exact = results("reference", [tensor.double() for tensor in inputs])
    plain, ours = (results(name, inputs) for name in ("reference", lean))
    for theirs, result in zip(plain, ours, strict=True):
        assert (result.dtype, result.shape) == (theirs.dtype, theirs.shape)
    return [
        [x.double().square().mean().item() for x in (result - truth, theirs - truth, truth)]
        for truth, theirs, result in zip(exact, plain, ours, strict=True)
    ]


@pytest.mark.usefixtures("short_chunks")
@pytest.mark.parametrize("seq", [1, 16, 17, 50])
@pytest.mark.parametrize("shared", [1, 2])
@every_lean
def test_every_cut_agrees_with_the_loop(lean: str, seq: int, shared: int, device: str) -> None:
    # Catches a state that is handed on wrongly between chunks or segments, and heads that read another's query.
    assert_as_accurate_as_the_reference(lean, make(device, torch.float32, seq, shared=shared))


@pytest.mark.parametrize(("n", "p"), [(3, 24), (16, 40), (64, 16)])
@every_dtype
@every_lean
def test_chunks_of_real_length(lean: str, dtype: torch.dtype, n: int, p: int, device: str) -> None:
    assert_as_accurate_as_the_reference(lean, make(device, dtype, 90, n=n, p=p))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="tiles of these sizes are slow to interpret")
@pytest.mark.parametrize(("n", "p"), [(8, 128), (16, 128), (64, 64), (64, 128), (128, 128), (128, 16), (33, 65)])
@every_dtype
def test_tiles_of_real_sizes(dtype: torch.dtype, n: int, p: int, device: str) -> None:
    assert_as_accurate_as_the_reference("triton", make(device, dtype, 700, n=n, p=p, batch=3))


@pytest.mark.usefixtures("short_chunks")
@pytest.mark.parametrize("decays", ["none", "strong", "mixed", "forgets"])
@every_lean
def test_extreme_decays(lean: str, decays: str, device: str) -> None:
    # Catches sums of decays that swallow weak ones after a strong one, cancelling sums, and exp(-inf + inf).
    inputs = make(device, torch.float32, 40)
    strength = {"none": 0.0, "strong": 20.0, "mixed": 20.0, "forgets": float("inf")}[decays]
    every = 1 if decays in ("none", "strong") else 3
    inputs[3][:, ::every] = -strength
    assert_as_accurate_as_the_reference(lean, inputs)


@every_lean
def test_products_beyond_the_range_of_float16(lean: str, device: str) -> None:
    # q.k is 320,000, which float16 cannot hold; o is small again.
    inputs = make(device, torch.float16, 20, n=8)
    inputs[0].fill_(200)
    inputs[1].fill_(200)
    inputs[2].mul_(0.01)
    inputs[4].zero_()
    o = semiseparable_mix(*inputs[:4], implementation=lean)
    expected = semiseparable_mix(*inputs[:4], implementation="reference")
    torch.testing.assert_close(o, expected, rtol=1e-2, atol=1)
    assert expected.abs().max() > 1000


@pytest.mark.usefixtures("short_chunks")
@every_lean
def test_causal(lean: str, device: str) -> None:
    inputs = make(device, torch.float32, 40)
    before = semiseparable_mix(*inputs[:4], implementation=lean)
    for tensor in inputs[:4]:
        tensor[:, 20] -= 1
    after = semiseparable_mix(*inputs[:4], implementation=lean)
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.isclose(before[:, 20:], after[:, 20:]).all(-1).any()


@every_dtype
@every_lean
def test_steps_continue_the_mix(lean: str, dtype: torch.dtype, device: str) -> None:
    q, k, v, log_decay, state = make(device, dtype, 20, shared=2)
    whole, last = semiseparable_mix(
        q, k, v, log_decay, initial_state=state, return_final_state=True, implementation="reference"
    )
    first = [tensor[:, :17] for tensor in (q, k, v, log_decay)]
    _, state = semiseparable_mix(*first, initial_state=state, return_final_state=True, implementation=lean)
    eps = torch.finfo(dtype).eps
    for t in range(17, 20):
        o = semiseparable_step(q[:, t], k[:, t], v[:, t], log_decay[:, t], state, implementation=lean)
        torch.testing.assert_close(o, whole[:, t], rtol=4 * eps, atol=16 * eps)
    torch.testing.assert_close(state, last, rtol=4 * eps, atol=16 * eps)
    assert (o.dtype, state.dtype) == (dtype, torch.float32)
    turned = state.mT.contiguous().mT
    step = [tensor[:, 19] for tensor in (q, k, v, log_decay)]
    turned_o, o = (semiseparable_step(*step, one, implementation=lean) for one in (turned, state))
    torch.testing.assert_close(turned_o, o, rtol=4 * eps, atol=16 * eps)


@pytest.mark.parametrize("used", [0, 1])
@every_lean
def test_an_output_that_is_not_used(lean: str, used: int, device: str) -> None:
    def gradients(name: str) -> tuple[Tensor, ...]:
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        pair = semiseparable_mix(*leaves[:4], initial_state=leaves[4], return_final_state=True, implementation=name)
        grads = torch.autograd.grad(pair[used].square().sum(), leaves, allow_unused=True)
        return tuple(torch.zeros_like(x) if grad is None else grad for grad, x in zip(grads, leaves, strict=True))

    inputs = make(device, torch.float32, 10)
    for ours, theirs in zip(gradients(lean), gradients("reference"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@every_lean
def test_sizes_of_one(lean: str, device: str) -> None:
    q, k, v, log_decay, state = make(device, torch.float32, 1, n=1, p=1)
    o, final = semiseparable_mix(q, k, v, log_decay, initial_state=state, return_final_state=True, implementation=lean)
    expected = log_decay.exp().view(1, 2, 1, 1) * state + (k * v).view(1, 2, 1, 1)
    torch.testing.assert_close(final, expected)
    torch.testing.assert_close(o, q * expected.view(1, 1, 2, 1))


@pytest.mark.usefixtures("short_chunks")
def test_two_runs_give_the_same_bytes(device: str) -> None:
    inputs = make(device, torch.bfloat16, 40, shared=2)
    for first, second in zip(results("triton", inputs), results("triton", inputs), strict=True):
        assert torch.equal(first, second)


@every_lean
def test_float32_decays_of_bfloat16(lean: str, device: str) -> None:
    # exp(-0.001) is 1 in bfloat16, but not in float32.
    inputs = make(device, torch.bfloat16, 30)
    inputs[3] = torch.full(inputs[3].shape, -0.001, device=device)
    assert_as_accurate_as_the_reference(lean, inputs)
    assert results(lean, inputs)[5].dtype == torch.float32


@pytest.mark.parametrize(("batch", "seq"), [(0, 4), (2, 0), (0, 0)])
@every_lean
def test_nothing_to_mix(lean: str, batch: int, seq: int, device: str) -> None:
    inputs = make(device, torch.float32, seq, batch=batch)
    for ours, theirs in zip(results(lean, inputs), results("reference", inputs), strict=True):
        torch.testing.assert_close(ours, theirs)


@every_lean
def test_views_of_one_projection(lean: str, device: str) -> None:
    # q, k and v as slices of one product: rows are not next to each other, and nothing is copied.
    fused = torch.randn(1, 20, 2, 5 + 5 + 6, device=device)
    views = fused.split([5, 5, 6], -1)
    log_decay = -torch.rand(1, 2, 20, device=device).transpose(1, 2)
    ours = semiseparable_mix(*views, log_decay, implementation=lean)
    copies = [view.contiguous() for view in (*views, log_decay)]
    assert torch.equal(ours, semiseparable_mix(*copies, implementation=lean))


@pytest.mark.parametrize("seq", [1, 512, 2048, 8192, 1 << 20])
@pytest.mark.parametrize("rows", [1, 16, 32, 1000])
def test_segments_fill_the_machine_and_no_more(rows: int, seq: int) -> None:
    cut = plan.plan(rows, seq, torch.bfloat16)
    assert (cut.segments - 1) * cut.span < cut.chunks <= cut.segments * cut.span
    assert cut.segments == 1 or rows * cut.segments <= 264 + rows
    assert cut.segments * 64 <= max(64, seq)
    if rows == 16:
        assert (cut.segments == 1) == (seq <= 512)  # small inputs take a single launch


def test_number_of_launches(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    counts: list[str] = []
    for module, names in (
        ("kernel", ("segment_kernel", "output_kernel")),
        ("gradient_kernel", ("carry_kernel", "gradient_kernel", "group_kernel")),
    ):
        kernels = importlib.import_module(f"muse_kernels.semiseparable_mix.{module}")
        for name in names:
            original = getattr(kernels, name)

            class Counted:
                def __init__(self, kernel: object, name: str) -> None:
                    self.kernel, self.name = kernel, name

                def __getitem__(self, grid: tuple[int, ...]) -> object:
                    counts.append(self.name)
                    return self.kernel[grid]  # type: ignore[index]

            monkeypatch.setattr(kernels, name, Counted(original, name))
    results("triton", make(device, torch.float32, 60))
    assert counts == ["output_kernel", "carry_kernel", "gradient_kernel"]
    counts.clear()
    monkeypatch.setattr(plan, "WALKED", 1)
    monkeypatch.setattr(plan, "LEAST_SPAN", 1)
    results("triton", make(device, torch.float32, 60, shared=2))
    assert counts == [
        "segment_kernel",
        "output_kernel",
        "carry_kernel",
        "carry_kernel",
        "gradient_kernel",
        "group_kernel",
    ]


Q, V, DECAY = torch.ones(1, 4, 2, 3), torch.ones(1, 4, 2, 5), torch.zeros(1, 4, 2)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((Q, Q, V[0], DECAY), {}, r"v: expected shape \(batch, seq, heads, P\), got \(4, 2, 5\)"),
        ((Q, Q[:, :3], V, DECAY), {}, r"k: expected shape \(1, 4, 2, 3\), got \(1, 3, 2, 3\)"),
        ((torch.ones(1, 4, 3, 3), Q, V, DECAY), {}, "q: its 3 heads must divide the 2 heads of v"),
        ((Q[:, :3], Q, V, DECAY), {}, r"q: expected shape \(1, 4, 2, 3\), got \(1, 3, 2, 3\)"),
        ((Q, Q, V, DECAY[..., 0]), {}, r"log_decay: expected shape \(1, 4, 2\), got \(1, 4\)"),
        ((Q, Q.half(), V, DECAY), {}, "k: expected dtype float32, got float16"),
        ((Q, Q, V, DECAY.double()), {}, "log_decay: expected dtype float32, got float64"),
        ((Q, Q, V, DECAY), {"initial_state": V}, r"initial_state: expected shape \(1, 2, 3, 5\)"),
        ((Q, Q, V, DECAY.to("meta")), {}, "log_decay: is on meta, but v is on cpu"),
        (
            (Q, Q, torch.ones(1, 4, 2, 129), DECAY),
            {"implementation": "triton"},
            "the Triton kernel takes N and P up to 128, got 3 and 129; choose eager",
        ),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else "",
)
def test_a_bad_argument_is_named(
    arguments: tuple[Tensor, ...], options: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match=message):
        semiseparable_mix(*arguments, **options)


def test_a_bad_state_of_a_step_is_named() -> None:
    with pytest.raises(ValueError, match="state: expected dtype float32, got float16"):
        semiseparable_step(Q[:, 0], Q[:, 0], V[:, 0], DECAY[:, 0], torch.zeros(1, 2, 3, 5).half())
