"""The diagonal recurrence: the loop it stands for, causality, long and short sequences, extreme decays."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from muse_kernels import diagonal_scan

AccuracyCheck = Callable[..., None]


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


@pytest.mark.parametrize("decays", [False, True])
@pytest.mark.parametrize("t", [0, 5, 12])
def test_causal(t: int, decays: bool) -> None:
    x, decay = torch.randn(2, 13, 3), torch.rand(2, 13, 3) if decays else None
    before = run("eager", x, decay)
    x[:, t] += 1
    after = run("eager", x, decay)
    assert torch.equal(before[:, :t], after[:, :t])
    assert not torch.isclose(before[:, t], after[:, t]).any()


def test_gradients_flow_to_the_past_only() -> None:
    x, decay = (torch.rand(1, 13, 2, requires_grad=True) for _ in range(2))
    for tensor in torch.autograd.grad(run("eager", x, decay)[:, 6].sum(), (x, decay)):
        assert tensor[:, 7:].count_nonzero() == 0
        assert tensor[:, 1:7].count_nonzero() == 12


@pytest.mark.parametrize("decay", [None, torch.ones(1, 1, 1)], ids=["sum", "decay"])
def test_sums_in_float32(decay: Tensor | None) -> None:
    # 1 + 1 + ... in bfloat16 would stop at 256.
    x = torch.ones(1, 1000, 1, dtype=torch.bfloat16, requires_grad=True)
    h = run("eager", x, None if decay is None else decay.expand(1, 1000, 1))
    assert torch.equal(h.flatten(), torch.arange(1, 1001).to(torch.bfloat16))
    (grad,) = torch.autograd.grad(h.sum(), x)
    assert torch.equal(grad.flatten(), torch.arange(1000, 0, -1).to(torch.bfloat16))


def test_half_precision_with_a_float32_decay(assert_accurate: AccuracyCheck) -> None:
    # 0.9999 rounds to 1 in bfloat16. Each gradient of a decay is one product with the saved, rounded h.
    x, decay = torch.randn(2, 100, 3).to(torch.bfloat16), torch.full((2, 100, 3), 0.9999, requires_grad=True)
    assert not torch.equal(run("eager", x, decay), run("eager", x))
    assert_accurate(lambda name, x: run(name, x, decay.detach().to(torch.promote_types(x.dtype, torch.float32))), x)
    ours, theirs = (torch.autograd.grad(run(name, x, decay).float().sum(), decay)[0] for name in ("eager", "reference"))
    torch.testing.assert_close(ours, theirs, rtol=torch.finfo(torch.bfloat16).eps, atol=0)


@pytest.mark.parametrize("value", [1.0, 1e-30, torch.finfo(torch.float32).tiny])
def test_extreme_decays_stay_finite(value: float, assert_accurate: AccuracyCheck) -> None:
    x, decay = 1e30 * torch.randn(1, 300, 2), torch.full((1, 300, 2), value)
    decay[:, 100] = 1.0
    assert_accurate(run, x, decay)


def test_expanded_decay_gets_the_summed_gradient() -> None:
    x, decay = torch.randn(2, 9, 3, dtype=torch.float64), torch.rand(3, dtype=torch.float64, requires_grad=True)
    ours, theirs = (
        torch.autograd.grad(run(name, x, decay.expand(2, 9, 3)).square().sum(), decay)[0]
        for name in ("eager", "reference")
    )
    torch.testing.assert_close(ours, theirs)


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
        (torch.ones(1, 2, 3), torch.ones(3), r"decay: expected shape \(1, 2, 3\), got \(3,\)"),
        (torch.ones(1, 2, 3), torch.ones(1, 2, 3).half(), "decay: expected dtype float32, got float16"),
        (torch.ones(1, 2, 3).double(), torch.ones(1, 2, 3), "decay: expected dtype float64, got float32"),
        (torch.ones(1, 2, 3), torch.ones(1, 2, 3, device="meta"), "decay: is on meta, but x is on cpu"),
    ],
    ids=str,
)
def test_a_bad_argument_is_named(x: Tensor, decay: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        diagonal_scan(x, decay)
