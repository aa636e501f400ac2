"""Matrices of 4 bits: in host memory as on the device, to the bit, and as good as 4 bits allow."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from muse_bench.config import Case, Sizes
from muse_bench.layers import int4
from muse_bench.layers.int4 import Int4Linear
from muse_bench.models.language_model import LanguageModel
from muse_bench.models.presets import PRESETS
from muse_bench.stored import Int4Parameter
from muse_bench.workload import Workload, build_workload
from muse_kernels import int4_unpack

VOCAB = 301
SIZES = Sizes(vocab_size=VOCAB, d_model=64, n_layers=3, n_heads=2, seq_len=24)
ODD = dataclasses.replace(SIZES, d_model=130)  # two groups of 65 bytes, the second of two values
DENSE = {"mixer": "attention", "ffn": "dense", "attention_every": None, "checkpoint_parts": 1}
EVERY_PART = pytest.mark.parametrize("changes", [{}, DENSE], ids=["muse", "dense"])


def build(
    weights: str,
    mode: str = "inference",
    sizes: Sizes = SIZES,
    device: str = "cpu",
    dtype: str = "bf16",
    **changes: Any,
) -> Workload:
    parts = {"n_heads": 2, "weights": weights, "weight_format": "int4", **changes}
    config = dataclasses.replace(PRESETS["muse"].configure(sizes), **parts)
    case = Case(
        model="muse",
        config=config,
        mode=mode,  # type: ignore[arg-type]
        dtype=dtype,  # type: ignore[arg-type]
        batch=3,
        seq=24,
        vocab_size=VOCAB,
        new_tokens=4,
    )
    return build_workload(case, torch.device(device))


@torch.no_grad()
def logits(model: LanguageModel, ids: Tensor) -> Tensor:
    found: Tensor = model(ids)
    return found


def floating(model: LanguageModel) -> dict[str, Tensor]:
    """The state of the same model in native weights: each matrix as it is unpacked."""
    state = dict(model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, Int4Linear):
            steps, scale = (state.pop(f"{name}.{part}") for part in ("steps", "scale"))
            state[f"{name}.weight"] = int4_unpack(steps, scale, module.in_features)
    return state


@pytest.mark.parametrize("sizes", [SIZES, ODD], ids=["whole bytes", "odd"])
@EVERY_PART
def test_what_it_says_is_the_same_to_the_bit(changes: dict[str, object], sizes: Sizes) -> None:
    """A scale that stays behind, a page of what stands for the matrix, rows that begin at half a byte."""
    host, device = (build(weights, "decode", sizes, **changes) for weights in ("host", "device"))
    torch.testing.assert_close(host.model.state_dict(), device.model.state_dict(), rtol=0, atol=0)
    ids = torch.randint(VOCAB, (3, 24))
    found = []
    for work in (host, device):
        work.step()
        with torch.no_grad():
            found.append(work.model.hidden(ids)[0])
    assert torch.equal(*found)


def test_it_says_what_its_unpacked_weights_say() -> None:
    """To the bit: a product of unpacked weights is the ordinary one."""
    ours = build("device", **DENSE).model
    theirs = build("device", weight_format="native", **DENSE).model
    theirs.load_state_dict(floating(ours))
    ids = torch.randint(VOCAB, (3, 24))
    assert torch.equal(logits(ours, ids), logits(theirs, ids))


@pytest.mark.parametrize("bias", [True, False])
def test_some_rows_at_a_time_are_the_whole(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bias and the columns of the last, shorter part."""
    linear = Int4Linear(70, 33, bias=bias)
    linear.initialise(0.02)
    if bias:
        torch.nn.init.normal_(linear.bias)
    x = torch.randn(2, 5, 70)
    with torch.no_grad():
        whole = linear(x)
        monkeypatch.setattr(int4, "PANEL", 7)
        torch.testing.assert_close(linear(x), whole)


@EVERY_PART
def test_logits_err_as_little_as_four_bits_allow(changes: dict[str, object]) -> None:
    """No more than INT8's do times how much longer steps are: a largest value is 8 of them in place of 127.

    A group's largest value is a row's at most. In float32, where nothing else errs.
    """
    sizes = dataclasses.replace(SIZES, d_model=256)
    exact, *stored = (
        build("device", sizes=sizes, dtype="fp32", weight_format=form, **changes).model
        for form in ("native", "int8", "int4")
    )
    ids = torch.randint(VOCAB, (3, 24))
    truth, errors = logits(exact, ids), []
    for model in stored:
        model.load_state_dict(exact.state_dict())
        errors.append((logits(model, ids) - truth).square().mean().sqrt())
    assert 0 < errors[0] < errors[1] <= errors[0] * 127 / 8


@pytest.mark.parametrize("weights", ["host", "device"])
def test_the_same_weights_in_bf16_say_nearly_the_same(weights: str) -> None:
    """The share of an error that steps of 4 bits have: a twelfth of a squared step, of two matrices a half block."""
    native = build("device", weight_format="native", **DENSE).model
    ours = build(weights, **DENSE).model
    ours.load_state_dict(native.state_dict())
    ids = torch.randint(VOCAB, (3, 24))
    truth, state = logits(native, ids).float(), native.state_dict()
    relative = max(
        (value.float() - state[name].float()).norm() / state[name].float().norm()
        for name, value in floating(ours).items()
        if name.endswith("weight") and value.dim() == 2
    )
    matrices = 4 * SIZES.n_layers
    assert (logits(ours, ids).float() - truth).norm() / truth.norm() <= relative * matrices**0.5


def test_host_memory_holds_half_a_byte_a_weight_and_a_number_a_group() -> None:
    work = build("host", sizes=ODD, **DENSE)
    matrices = [module for module in work.model.modules() if isinstance(module, Int4Linear)]
    sizes = [
        size
        for matrix in matrices
        for size in (
            matrix.out_features * -(-matrix.in_features // 2),
            2 * matrix.out_features * -(-matrix.in_features // 128),
        )
    ]
    sizes += [2 * work.model.head.up.weight.numel()]
    assert len(matrices) == 4 * ODD.n_layers
    assert work.host_bytes() == {"weights": sum(-(-size // 512) * 512 for size in sizes)}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("weights", ["host", "device"])
def test_parameters_count_as_those_of_the_native_model(weights: str, device: str) -> None:
    work = build(weights, device=device)
    assert work.parameters == build(weights, device=device, weight_format="native").parameters
    standing = [parameter for parameter in work.model.parameters() if isinstance(parameter, Int4Parameter)]
    assert standing
    assert not any(parameter.requires_grad for parameter in standing)


@pytest.mark.parametrize("weights", ["host", "device"])
def test_a_model_moves_saves_and_loads(weights: str) -> None:
    source = build(weights).model
    state = {name: value.clone() for name, value in source.state_dict().items()}
    target = LanguageModel(source.config)  # other weights, in float32
    target.load_state_dict(state)
    target.to(torch.bfloat16)
    torch.testing.assert_close(target.state_dict(), source.state_dict(), rtol=0, atol=0)
    ids = torch.randint(VOCAB, (3, 24))
    assert torch.equal(logits(target.eval(), ids), logits(source, ids))
