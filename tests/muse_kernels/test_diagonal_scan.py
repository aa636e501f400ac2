"""The diagonal recurrence: the loop it stands for, causality, long and short sequences, extreme decays."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from muse_kernels import diagonal_scan
from muse_kernels.diagonal_scan import plan as plan_module

AccuracyCheck = Callable[..., None]
every_lean = pytest.mark.parametrize("lean", ["eager", "triton"])


def run(implementation: str, x: Tensor, decay: Tensor | None = None) -> Tensor:
    return diagonal_scan(x, decay, implementation=implementation)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2), st.integers(0, 70), st.integers(0, 3), st.booleans())
def test_every_length_agrees_with_the_loop(batch: int, seq: int, rank: int, decays: bool) -> None:
    x = torch.randn(batch, seq, rank, dtype=torch.float64)
    decay = torch.rand_like(x) if decays else None
    expected, h = torch.zeros_like(x), torch.zeros(batch, rank, dtype=torch.float64)
    for t in range(seq):
        h = (1 if decay is None else decay[:, t]) * h + x[:, t]
        expected[:, t] = h
    torch.testing.assert_close(run("eager", x, decay), expected)
    torch.testing.assert_close(run("reference", x, decay), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("seq", [1, 2, 63, 64, 65, 200])
def test_accuracy_by_length(seq: int, dtype: torch.dtype, assert_accurate: AccuracyCheck) -> None:
    x = torch.randn(2, seq, 3).to(dtype)
    assert_accurate(run, x)
    assert_accurate(run, x, torch.rand(2, seq, 3).to(dtype))


@every_lean
@pytest.mark.parametrize("decays", [False, True])
@pytest.mark.parametrize("t", [0, 5, 12])
def test_causal(lean: str, t: int, decays: bool, device: str) -> None:
    x, decay = torch.randn(2, 13, 3, device=device), torch.rand(2, 13, 3, device=device) if decays else None
    before = run(lean, x, decay)
    x[:, t] += 1
    after = run(lean, x, decay)
    assert torch.equal(before[:, :t], after[:, :t])
    assert not torch.isclose(before[:, t], after[:, t]).any()


@every_lean
def test_gradients_flow_to_the_past_only(lean: str, device: str) -> None:
    x, decay = (torch.rand(1, 13, 2, device=device, requires_grad=True) for _ in range(2))
    for tensor in torch.autograd.grad(run(lean, x, decay)[:, 6].sum(), (x, decay)):
        assert tensor[:, 7:].count_nonzero() == 0
        assert tensor[:, 1:7].count_nonzero() == 12


@every_lean
@pytest.mark.parametrize("decay", [None, torch.ones(1, 1, 1), torch.ones(1)], ids=["sum", "decay", "one decay"])
def test_sums_in_float32(lean: str, decay: Tensor | None, device: str) -> None:
    # 2048 + 1 + 1 + ... in float16 would stay at 2048.
    x = torch.ones(1, 100, 1)
    x[:, 0] = 2048
    expected, x = x.cumsum(1).half(), x.to(device, torch.float16).requires_grad_()
    if decay is not None:
        decay = decay.to(device) if decay.dim() == 1 else decay.to(device).expand(1, 100, 1)
    h = run(lean, x, decay)
    assert torch.equal(h.cpu(), expected)
    (grad,) = torch.autograd.grad(h, x, x.detach().flip(1))
    assert torch.equal(grad.cpu(), expected.flip(1))


@every_lean
def test_half_precision_with_a_float32_decay(lean: str, device: str, assert_accurate: AccuracyCheck) -> None:
    # 0.9999 rounds to 1 in bfloat16. Each gradient of a decay is one product with the saved, rounded h.
    x = torch.randn(2, 100, 3).to(device, torch.bfloat16)
    decay = torch.full((2, 100, 3), 0.9999, device=device, requires_grad=True)
    assert not torch.equal(run(lean, x, decay), run(lean, x))
    fixed = decay.detach()
    assert_accurate(
        lambda name, x: run(name, x, fixed.to(torch.promote_types(x.dtype, torch.float32))), x, implementation=lean
    )
    ours, theirs = (torch.autograd.grad(run(name, x, decay).float().sum(), decay)[0] for name in (lean, "reference"))
    torch.testing.assert_close(ours, theirs, rtol=torch.finfo(torch.bfloat16).eps, atol=0)


@every_lean
@pytest.mark.parametrize("value", [1.0, 1e-30, torch.finfo(torch.float32).tiny])
def test_extreme_decays_stay_finite(lean: str, value: float, device: str, assert_accurate: AccuracyCheck) -> None:
    x, decay = 1e30 * torch.randn(1, 70, 2, device=device), torch.full((1, 70, 2), value, device=device)
    decay[:, 30] = 1.0
    assert_accurate(run, x, decay, implementation=lean)


@pytest.mark.parametrize("lean", ["eager", "reference", "triton"])
def test_one_decay_a_channel_gets_the_summed_gradient(lean: str, device: str) -> None:
    """Whether it is handed over as it is, or expanded by the caller, whose gradient PyTorch then sums."""
    x, decay = torch.randn(2, 9, 3, device=device), torch.rand(3, device=device, requires_grad=True)
    expected = torch.autograd.grad(run("reference", x, decay.expand(2, 9, 3)).square().sum(), decay)[0]
    for form in (decay, decay.expand(2, 9, 3)):
        torch.testing.assert_close(torch.autograd.grad(run(lean, x, form).square().sum(), decay)[0], expected)


def results(implementation: str, x: Tensor, decay: Tensor | None, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """The output and every gradient."""
    leaves = [tensor.detach().to(dtype).requires_grad_() for tensor in (x, decay) if tensor is not None]
    h = run(implementation, *leaves)
    return [h, *torch.autograd.grad(h, leaves, torch.linspace(-1, 1, h.numel()).view(h.shape).to(h))]


def decays_like(x: Tensor, kind: str) -> Tensor | None:
    return {"sum": None, "channel": torch.rand(x.shape[2]), "step": torch.rand(x.shape)}[kind]


every_kind = pytest.mark.parametrize("kind", ["sum", "channel", "step"])


@pytest.mark.usefixtures("small_tiles")
@every_kind
@pytest.mark.parametrize("shape", [(2, 4, 1), (1, 5, 3), (1, 8, 2), (2, 13, 2), (1, 16, 1), (1, 22, 1)], ids=str)
def test_chunks_and_tiles_join(shape: tuple[int, int, int], kind: str, device: str) -> None:
    """A state that is lost, or a step past the end that decays it, between tiles or between chunks."""
    x = torch.randn(shape)
    decay = decays_like(x, kind)
    x, decay = x.to(device), None if decay is None else decay.to(device)
    for ours, theirs in zip(results("triton", x, decay), results("reference", x, decay, torch.float64), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)


@every_kind
@pytest.mark.parametrize(("shape", "fill"), [((1, 130, 2), 1), ((2, 3, 17), 1), ((1, 130, 20), 2)], ids=str)
def test_many_channels(
    shape: tuple[int, int, int], fill: int, kind: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs that walk a whole sequence, as they do where there are enough of them to fill a GPU."""
    monkeypatch.setattr(plan_module, "FILL_WARPS", fill)
    tile = plan_module.plan(*shape, streamed=plan_module.FORWARD_TILES[4]).tile
    assert tile == (plan_module.FORWARD_TILES[4] if fill == 1 else plan_module.Tile(8, 16, 16, 1))
    x = torch.randn(shape)
    decay = decays_like(x, kind)
    x, decay = x.to(device), None if decay is None else decay.to(device)
    for ours, theirs in zip(results("triton", x, decay), results("reference", x, decay, torch.float64), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.usefixtures("small_tiles")
def test_any_strides(device: str) -> None:
    """Time last in memory, and slices of wider tensors; outputs are contiguous all the same."""
    x = torch.randn(2, 3, 9, device=device).transpose(1, 2)
    decay = torch.rand(4, 9, 8, device=device)[::2, :, 1:7:2]
    for ours, theirs in zip(results("triton", x, decay), results("reference", x, decay), strict=True):
        assert ours.is_contiguous()
        torch.testing.assert_close(ours, theirs)


@pytest.mark.usefixtures("small_tiles")
@every_kind
def test_two_runs_give_the_same_bytes(kind: str, device: str) -> None:
    x = torch.randn(2, 13, 3)
    decay = decays_like(x, kind)
    x, decay = x.to(device), None if decay is None else decay.to(device)
    assert all(map(torch.equal, results("triton", x, decay), results("triton", x, decay)))


@every_lean
@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 3), (2, 3, 0)], ids=str)
def test_empty(lean: str, shape: tuple[int, int, int], device: str) -> None:
    for decay in (None, torch.rand(shape, device=device), torch.rand(shape[2], device=device)):
        h, grad, *grad_decay = results(lean, torch.randn(shape, device=device), decay)
        assert h.shape == grad.shape == shape
        assert not any(tensor.any() for tensor in grad_decay)


@pytest.mark.parametrize(
    ("batch", "seq", "rank"), [(8, 8192, 1536), (1, 2048, 8), (4, 65536, 32), (1, 1 << 20, 4), (3, 1, 1), (1, 9, 300)]
)
@pytest.mark.parametrize("streamed", [None, *plan_module.FORWARD_TILES.values(), *plan_module.BACKWARD_TILES.values()])
def test_chunks_cover_the_sequence(batch: int, seq: int, rank: int, streamed: plan_module.Tile | None) -> None:
    layout = plan_module.plan(batch, seq, rank, streamed=streamed)
    assert (layout.chunks - 1) * layout.chunk_steps < seq <= layout.chunks * layout.chunk_steps
    assert layout.chunk_steps % (layout.tile.rows * layout.tile.steps) == 0
    assert layout.programs == batch * layout.chunks * -(-rank // layout.tile.channels)
    assert batch * layout.chunks * rank * 4 <= 33_792 + 4 * batch * rank or not layout.split


def test_number_of_operations_grows_with_the_logarithm_of_the_length() -> None:
    class Counter(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            self.calls += 1
            return func(*args, **(kwargs or {}))

    def count(seq: int) -> int:
        x, decay = (torch.rand(1, seq, 1, requires_grad=True) for _ in range(2))
        with Counter() as counter:
            run("eager", x, decay).sum().backward()
        return counter.calls

    doublings = [count(2 ** (power + 1)) - count(2**power) for power in range(3, 9)]
    assert len(set(doublings)) == 1


@pytest.mark.parametrize(
    ("x", "decay", "message"),
    [
        (torch.ones(3, 4), None, r"x: expected shape \(batch, seq, rank\), got \(3, 4\)"),
        (torch.ones(1, 2, 3).long(), None, "x: expected a floating dtype, got int64"),
        (torch.ones(1, 2, 3), torch.ones(2), r"decay: expected shape \(3,\), got \(2,\)"),
        (torch.ones(1, 2, 3), torch.ones(2, 3), r"decay: expected shape \(1, 2, 3\), got \(2, 3\)"),
        (torch.ones(1, 2, 3), torch.ones(1, 2, 3).half(), "decay: expected dtype float32, got float16"),
        (torch.ones(1, 2, 3).double(), torch.ones(1, 2, 3), "decay: expected dtype float64, got float32"),
        (torch.ones(1, 2, 3), torch.ones(1, 2, 3, device="meta"), "decay: is on meta, but x is on cpu"),
    ],
    ids=str,
)
def test_a_bad_argument_is_named(x: Tensor, decay: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        diagonal_scan(x, decay)
