"""The gated scan: the unfused composition, chunks, states handed on, hard gates, slices of one projection."""

import warnings

import pytest
import torch
from torch import Tensor

from muse_kernels import diagonal_scan, gated_scan

every_lean = pytest.mark.parametrize("lean", ["eager", "triton"])
NAMES = ("u", "v", "scores", "decay", "initial")


def make_inputs(shape: tuple[int, int, int], decay: str | None, initial: bool, device: str) -> dict[str, Tensor]:
    inputs = {name: torch.randn(shape) for name in NAMES[:3]}
    inputs["scores"] += inputs["scores"].sign() / 4  # far enough from 0 to be as positive in every precision
    if decay is not None:
        inputs["decay"] = torch.rand(shape if decay == "step" else shape[2:])
    if initial:
        inputs["initial"] = torch.randn(shape[0], shape[2])
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def results(implementation: str, inputs: dict[str, Tensor], dtype: torch.dtype, **options) -> list[Tensor]:
    """The output, the state, and every gradient."""
    leaves = {name: tensor.detach().to(dtype).requires_grad_() for name, tensor in inputs.items()}
    outputs = gated_scan(**leaves, return_state=True, implementation=implementation, **options)
    cotangents = [torch.linspace(-1, 1, tensor.numel()).view(tensor.shape).to(tensor) for tensor in outputs]
    return [*outputs, *torch.autograd.grad(outputs, list(leaves.values()), cotangents)]


def assert_agrees(lean: str, inputs: dict[str, Tensor], **options) -> None:
    ours, theirs = (
        results(lean, inputs, torch.float32, **options),
        results("reference", inputs, torch.float64, **options),
    )
    for mine, exact in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.double(), exact, rtol=1e-5, atol=1e-5)


@every_lean
@pytest.mark.parametrize("decay", [None, "channel", "step"])
@pytest.mark.parametrize("hard", [False, True])
def test_is_the_composition_that_it_fuses(lean: str, decay: str | None, hard: bool, device: str) -> None:
    inputs = make_inputs((2, 7, 3), decay, False, device)
    soft = torch.sigmoid(inputs["scores"])
    gate = (inputs["scores"] > 0).float() if hard else soft
    h = diagonal_scan(inputs["u"] * gate, inputs.get("decay"), implementation="reference")
    ours = gated_scan(**inputs, hard=hard, implementation=lean)
    torch.testing.assert_close(ours, h * inputs["v"] * gate)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("decay", [None, "channel", "step"])
@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("shape", [(2, 4, 1), (1, 5, 3), (1, 13, 2)], ids=str)
def test_chunks_and_tiles_join(shape: tuple[int, int, int], decay: str | None, initial: bool, device: str) -> None:
    """A state or a gradient that is lost between tiles or between chunks, forwards or backwards in time."""
    assert_agrees("triton", make_inputs(shape, decay, initial, device))


@every_lean
@pytest.mark.parametrize("decay", [None, "channel", "step"])
def test_hard_gates_have_the_gradients_of_soft_ones(lean: str, decay: str | None, device: str) -> None:
    """Where a gate is closed, its score has a gradient nevertheless."""
    inputs = make_inputs((1, 6, 2), decay, True, device)
    assert_agrees(lean, inputs, hard=True)
    closed = results(lean, inputs, torch.float32, hard=True)[4][inputs["scores"] < 0]
    assert closed.count_nonzero() > 0


@every_lean
@pytest.mark.parametrize("decay", [None, "channel"])
def test_continues_from_a_state(lean: str, decay: str | None, device: str) -> None:
    inputs = make_inputs((2, 9, 3), decay, False, device)
    whole, ending = gated_scan(**inputs, return_state=True, implementation=lean)
    parts, state = [], None
    for part in (slice(0, 4), slice(4, 5), slice(5, 9)):
        step = {name: tensor if name == "decay" else tensor[:, part] for name, tensor in inputs.items()}
        out, state = gated_scan(**step, initial=state, return_state=True, implementation=lean)
        parts.append(out)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    torch.testing.assert_close(state, ending)


@every_lean
def test_the_state_is_float32(lean: str, device: str) -> None:
    """1 + 1 + ... in bfloat16 would stop at 256."""
    x = torch.full((1, 300, 1), 100.0, dtype=torch.bfloat16, device=device)
    _, state = gated_scan(x / 100, x, x, return_state=True, implementation=lean)
    assert (state.dtype, state.item()) == (torch.float32, 300)


@pytest.mark.usefixtures("small_tiles")
@every_lean
@pytest.mark.parametrize("decay", [None, "channel"])
def test_a_gradient_through_the_state_alone(lean: str, decay: str | None, device: str) -> None:
    inputs = make_inputs((1, 5, 2), decay, True, device)

    def gradients(implementation: str) -> tuple[Tensor, ...]:
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in inputs.items()}
        _, state = gated_scan(**leaves, return_state=True, implementation=implementation)
        return torch.autograd.grad(state.square().sum(), [leaves[name] for name in inputs if name != "v"])

    for ours, theirs in zip(gradients(lean), gradients("reference"), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.usefixtures("small_tiles")
@every_lean
def test_slices_of_one_projection(lean: str, device: str) -> None:
    def gradient(implementation: str) -> tuple[Tensor, Tensor]:
        joint = values.detach().requires_grad_()
        out = gated_scan(*joint.split(3, dim=-1), implementation=implementation)
        return out, *torch.autograd.grad(out.square().sum(), joint)

    values = torch.randn(2, 5, 9, device=device)
    for ours, theirs in zip(gradient(lean), gradient("reference"), strict=True):
        torch.testing.assert_close(ours, theirs)


@every_lean
@pytest.mark.parametrize("t", [0, 3, 6])
def test_causal(lean: str, t: int, device: str) -> None:
    inputs = make_inputs((1, 7, 2), "step", False, device)
    before = gated_scan(**inputs, implementation=lean)
    for tensor in inputs.values():
        tensor[:, t] += 1
    after = gated_scan(**inputs, implementation=lean)
    assert torch.equal(before[:, :t], after[:, :t])
    assert not torch.isclose(before[:, t], after[:, t]).any()


@every_lean
def test_extreme_scores_give_open_and_closed_gates(lean: str, device: str) -> None:
    inputs = make_inputs((1, 6, 2), "step", True, device)
    inputs["scores"] = 1e4 * inputs["scores"].sign()
    with warnings.catch_warnings():  # the interpreter's exp(1e4) is the infinity that it should be
        warnings.simplefilter("ignore", RuntimeWarning)
        assert_agrees(lean, inputs)


@pytest.mark.usefixtures("small_tiles")
def test_two_runs_give_the_same_bytes(device: str) -> None:
    inputs = make_inputs((1, 13, 2), "channel", True, device)
    first, second = (results("triton", inputs, torch.float32) for _ in range(2))
    assert all(map(torch.equal, first, second))


@every_lean
@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 3), (2, 3, 0)], ids=str)
def test_of_nothing_the_state_is_the_initial_one(lean: str, shape: tuple[int, int, int], device: str) -> None:
    for decay in (None, "channel", "step"):
        inputs = make_inputs(shape, decay, True, device)
        out, state, *gradients, grad_initial = results(lean, inputs, torch.float32)
        assert out.shape == shape
        assert torch.equal(state, inputs["initial"])
        assert torch.equal(grad_initial, torch.linspace(-1, 1, state.numel()).view(state.shape).to(state))
        assert not any(tensor.any() for tensor in gradients)


X = torch.ones(1, 2, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"u": torch.ones(3, 4)}, r"u: expected shape \(batch, seq, rank\), got \(3, 4\)"),
        ({"v": torch.ones(1, 2, 4)}, r"v: expected shape \(1, 2, 3\), got \(1, 2, 4\)"),
        ({"scores": X.half()}, "scores: expected dtype float32, got float16"),
        ({"decay": torch.ones(2)}, r"decay: expected shape \(3,\), got \(2,\)"),
        ({"initial": torch.ones(3)}, r"initial: expected shape \(1, 3\), got \(3,\)"),
        ({"initial": torch.ones(1, 3).half()}, "initial: expected dtype float32, got float16"),
        ({"v": X.to("meta")}, "v: is on meta, but u is on cpu"),
    ],
    ids=str,
)
def test_a_bad_argument_is_named(changes: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gated_scan(**{"u": X, "v": X, "scores": X, **changes})
