"""The self-check: every operation passes, and what is wrong with a kernel is found and named."""

import dataclasses
import importlib
import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import muse_kernels
from muse_kernels import self_check
from muse_kernels.self_check import LONG, ROWS, Row, check

DTYPES = [torch.float32, torch.bfloat16]
STEPS = 13  # for LONG with small tiles: two chunks of two tiles


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch, device: str) -> dict[str, Row]:
    """The rows; in the interpreter, which is slow, the long sequences are short and so are their tiles."""
    if device == "cuda":
        return dict(ROWS)
    short = {name: _shortened(row) for name, row in ROWS.items()}
    monkeypatch.setattr(self_check, "ROWS", short)
    return short


def _shortened(row: Row) -> Row:
    shapes = {name: tuple(STEPS if size == LONG else size for size in shape) for name, shape in row.shapes.items()}
    return dataclasses.replace(row, shapes=shapes)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [name for name in ROWS if not name.endswith("chunks")])
def test_every_kernel_passes(rows: dict[str, Row], name: str, dtype: torch.dtype, device: str) -> None:
    outcome = check(name, device, dtype, draws=2)
    assert outcome.passed, [figure for figure in outcome.figures if not figure.passed]
    names = [figure.what for figure in outcome.figures]
    inputs = [f"gradient of {name}" for name in rows[name].shapes] if rows[name].differentiable else []
    assert names == [*rows[name].outputs, *inputs]


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("name", [name for name in ROWS if name.endswith("chunks")])
def test_long_sequences_are_cut_into_chunks(rows: dict[str, Row], name: str, device: str) -> None:
    assert check(name, device, torch.float32, draws=2).passed


def test_the_long_sequence_takes_two_chunks_of_real_tiles() -> None:
    plan = importlib.import_module("muse_kernels.diagonal_scan.plan").plan
    assert plan(*ROWS["diagonal_scan chunks"].shapes["x"]).split


def test_every_operation_that_has_implementations_has_a_row() -> None:
    operations = {
        name
        for name in muse_kernels.__all__
        if "implementation" in getattr(inspect.signature(getattr(muse_kernels, name)), "parameters", {})
    }
    assert operations == {name.split()[0] for name in ROWS}


class _WrongGradient(torch.autograd.Function):
    """The identity, whose gradient is off by a hundredth, or not a number, or not there."""

    @staticmethod
    def forward(ctx, x: Tensor, spoil: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.spoil = spoil
        return x.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.spoil(grad), None


def _row(spoil_output: Callable[[Tensor], Tensor], spoil_gradient: Callable[[Tensor], Tensor]) -> Row:
    def call(implementation: str, x: Tensor, weight: Tensor) -> Tensor:
        if implementation == "triton":
            return spoil_output(_WrongGradient.apply(x, spoil_gradient) * weight)
        return x * weight

    return Row(call, {"x": (3, 5), "weight": (5,)})


def unspoiled(tensor: Tensor) -> Tensor:
    return tensor


def off_by_a_hundredth(tensor: Tensor) -> Tensor:
    return tensor * 1.01


def not_a_number(tensor: Tensor) -> Tensor:
    return torch.full_like(tensor, torch.nan)


def one_element_unwritten(tensor: Tensor) -> Tensor:
    written = torch.empty_like(tensor)
    written.view(-1)[1:] = tensor.view(-1)[1:]
    return written


@pytest.mark.parametrize("spoil", [off_by_a_hundredth, not_a_number, one_element_unwritten])
def test_a_wrong_gradient_is_caught_and_named(monkeypatch: pytest.MonkeyPatch, spoil: Callable[..., Tensor]) -> None:
    torch.use_deterministic_algorithms(False)  # the check itself poisons memory
    monkeypatch.setattr(self_check, "ROWS", {"product": _row(unspoiled, spoil)})
    outcome = check("product", "cpu", torch.float32)
    assert not outcome.passed
    assert [figure.what for figure in outcome.figures if not figure.passed] == ["gradient of x"]
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_wrong_output_is_caught_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "ROWS", {"product": _row(off_by_a_hundredth, unspoiled)})
    failed = [figure.what for figure in check("product", "cpu", torch.float32).figures if not figure.passed]
    assert "output" in failed


def test_a_right_kernel_passes_and_the_random_state_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "ROWS", {"product": _row(unspoiled, unspoiled)})
    before = torch.get_rng_state()
    assert check("product", "cpu", torch.float32).passed
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(lambda tensor: tensor.double(), "gives torch.float64"), (lambda tensor: tensor[:2], r"gives torch.float32 \(2,")],
    ids=["dtype", "shape"],
)
def test_another_dtype_or_shape_is_an_error(monkeypatch: pytest.MonkeyPatch, spoil, said: str) -> None:
    monkeypatch.setattr(self_check, "ROWS", {"product": _row(spoil, unspoiled)})
    with pytest.raises(TypeError, match=said):
        check("product", "cpu", torch.float32)


def test_a_cpu_outside_the_interpreter_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="Triton runs on CUDA"):
        check("rms_norm", "cpu", torch.float32)
