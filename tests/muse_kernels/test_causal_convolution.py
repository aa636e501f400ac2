"""The causal convolution: PyTorch's own, tokens ahead, walks that join, several dtypes at once."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from muse_kernels import causal_convolution
from muse_kernels.causal_convolution import fused

every_lean = pytest.mark.parametrize("lean", ["eager", "triton"])


@pytest.fixture(autouse=True)
def small_walks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Walks of two tiles of 4 steps."""
    for name, value in {"TILE_STEPS": 4, "WALK_STEPS": 5}.items():
        monkeypatch.setattr(fused, name, value)


def results(implementation: str, inputs: list[Tensor], add: bool) -> list[Tensor]:
    """The output and every gradient."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    options = {"add": leaves.pop()} if add else {}
    y = causal_convolution(*leaves, **options, implementation=implementation)
    cotangent = torch.linspace(-1, 1, y.numel()).view(y.shape).to(y)
    return [y, *torch.autograd.grad(y, [*leaves, *options.values()], cotangent)]


@pytest.mark.parametrize("implementation", ["reference", "eager", "triton"])
def test_is_a_depthwise_convolution(implementation: str, device: str) -> None:
    x, weight = torch.randn(2, 9, 3, device=device), torch.randn(4, 3, device=device)
    padded = functional.pad(x.transpose(1, 2), (3, 0))
    expected = functional.conv1d(padded, weight.t().unsqueeze(1), groups=3).transpose(1, 2)
    torch.testing.assert_close(causal_convolution(x, weight, implementation=implementation), expected)


@every_lean
@pytest.mark.parametrize("width", [1, 2, 3, 5])
@pytest.mark.parametrize(("before", "add"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 2), (1, 17, 3), (1, 2, 130)], ids=str)
def test_every_width(lean: str, width: int, before: bool, add: bool, shape: tuple[int, int, int], device: str) -> None:
    """Sequences shorter than the width, several walks, two blocks of channels."""
    shapes = [shape, (width, shape[2]), *[(shape[0], width - 1, shape[2])] * before, *[shape] * add]
    inputs = [torch.randn(shape).to(device) for shape in shapes]
    exact = results("reference", [tensor.double() for tensor in inputs], add)
    for ours, theirs in zip(results(lean, inputs, add), exact, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)


@every_lean
def test_in_pieces_it_is_the_whole(lean: str, device: str) -> None:
    x, weight = torch.randn(2, 9, 3, device=device), torch.randn(3, 3, device=device)
    whole, parts, before = causal_convolution(x, weight, implementation=lean), [], x.new_zeros(2, 2, 3)
    for start, end in ((0, 1), (1, 2), (2, 7), (7, 9)):
        part = x[:, start:end]
        parts.append(causal_convolution(part, weight, before, implementation=lean))
        before = torch.cat((before, part), 1)[:, -2:]
    torch.testing.assert_close(torch.cat(parts, 1), whole)


@every_lean
@pytest.mark.parametrize("t", [0, 4, 8])
def test_causal(lean: str, t: int, device: str) -> None:
    x, weight = torch.randn(1, 9, 3, device=device), torch.randn(3, 3, device=device)
    before = causal_convolution(x, weight, implementation=lean)
    x[:, t] += 1
    changed = (causal_convolution(x, weight, implementation=lean) != before).all(-1).flatten()
    assert changed.tolist() == [t <= step < t + 3 for step in range(9)]


@every_lean
def test_under_autocast_dtypes_differ(lean: str, device: str) -> None:
    """x in float32 from a norm, what is added in bfloat16 from a product; and a float32 weight for a bfloat16 x."""
    x, weight = torch.randn(1, 9, 3, device=device), torch.randn(3, 3, device=device)
    add = torch.randn(1, 9, 3).to(device, torch.bfloat16)
    ours, theirs = results(lean, [x, weight, add], True), results("reference", [x, weight, add], True)
    assert [tensor.dtype for tensor in ours] == [torch.float32] * 3 + [torch.bfloat16]
    for mine, exact in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, exact)
    half = results(lean, [x.bfloat16(), weight], False)
    assert [tensor.dtype for tensor in half] == [torch.bfloat16, torch.bfloat16, torch.float32]


@every_lean
def test_any_strides(lean: str, device: str) -> None:
    x = torch.randn(2, 3, 9, device=device).transpose(1, 2)
    inputs = [x, torch.randn(3, 3, device=device).t(), torch.randn(3, 2, 2, device=device).permute(2, 1, 0), x * 2]
    for ours, theirs in zip(results(lean, inputs, True), results("reference", inputs, True), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_two_runs_give_the_same_bytes(device: str) -> None:
    inputs = [torch.randn(shape).to(device) for shape in ((2, 17, 3), (3, 3))]
    assert all(map(torch.equal, results("triton", inputs, False), results("triton", inputs, False)))


@every_lean
@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 3), (2, 3, 0)], ids=str)
def test_empty(lean: str, shape: tuple[int, int, int], device: str) -> None:
    inputs = [torch.randn(size).to(device) for size in (shape, (3, shape[2]), (shape[0], 2, shape[2]))]
    y, grad_x, grad_weight, grad_before = results(lean, inputs, False)
    assert y.shape == grad_x.shape == shape
    assert not grad_weight.any()
    assert not grad_before.any()


@pytest.mark.parametrize("batch", [1, 3, 64, 1000])
@pytest.mark.parametrize("seq", [1, 16, 65, 2048, 1 << 20])
def test_walks_cover_the_sequence(batch: int, seq: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TILE_STEPS": 16, "WALK_STEPS": 64}.items():
        monkeypatch.setattr(fused, name, value)
    walks, steps = fused.walks_of(batch, seq)
    assert (walks - 1) * steps < seq <= walks * steps
    assert batch * walks <= max(batch, fused.MAX_SUMS)


X, WEIGHT = torch.ones(1, 2, 3), torch.ones(3, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.ones(2, 3)}, r"x: expected shape \(batch, seq, d_model\), got \(2, 3\)"),
        ({"weight": torch.ones(3)}, r"weight: expected shape \(width, d_model\), got \(3,\)"),
        ({"weight": torch.ones(0, 3)}, "width: must be at least 1, got 0"),
        ({"weight": torch.ones(3, 4)}, r"weight: expected shape \(3, 3\), got \(3, 4\)"),
        ({"weight": WEIGHT.half()}, "weight: expected dtype float32, got float16"),
        ({"before": torch.ones(1, 1, 3)}, r"before: expected shape \(1, 2, 3\), got \(1, 1, 3\)"),
        ({"add": torch.ones(1, 3, 3)}, r"add: expected shape \(1, 2, 3\), got \(1, 3, 3\)"),
        ({"add": X.long()}, "add: expected a floating dtype, got int64"),
        ({"add": X.to("meta")}, "add: is on meta, but x is on cpu"),
    ],
    ids=str,
)
def test_a_bad_argument_is_named(changes: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        causal_convolution(**{"x": X, "weight": WEIGHT, **changes})
