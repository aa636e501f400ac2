"""Matrices that are trained in INT8: in host memory as on the device, to the bit, with nothing kept beside them."""

import dataclasses

import pytest
import torch

from muse_bench.config import Case, Optimizer, Sizes
from muse_bench.models.language_model import LanguageModel
from muse_bench.models.presets import PRESETS
from muse_bench.stored import Int8Parameter
from muse_bench.workload import Workload, build_workload

SIZES = Sizes(vocab_size=301, d_model=64, n_layers=3, n_heads=2, seq_len=24)
DENSE = {"mixer": "attention", "ffn": "dense", "attention_every": None, "checkpoint_parts": 1}
EVERY_PART = pytest.mark.parametrize("changes", [{}, DENSE], ids=["muse", "dense"])


def build(weights: str, mode: str = "train", optimizer: Optimizer = "adafactor-8bit", **changes: object) -> Workload:
    preset = PRESETS["muse"]
    parts = {"n_heads": 2, "weights": weights, "weight_format": "int8", **changes}
    config = dataclasses.replace(preset.configure(SIZES), **parts)
    case = Case(
        model="muse",
        config=config,
        mode=mode,
        dtype="bf16",
        batch=3,
        seq=24,
        vocab_size=301,
        optimizer=optimizer,
        update="in-backward" if mode == "train" else "after",
        new_tokens=4,
    )
    return build_workload(case, torch.device("cpu"))


def same(ours: LanguageModel, theirs: LanguageModel) -> None:
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


@EVERY_PART
@pytest.mark.parametrize("optimizer", ["adafactor-8bit", "apollo-mini"])
def test_training_is_the_same_to_the_bit(changes: dict[str, object], optimizer: Optimizer) -> None:
    """A scale that stays behind, a page of the parameter in place of what it stands for, state of another matrix.

    All parts of a model have some state, or those alone with more than matrices, or none.
    """
    host, device = (build(weights, optimizer=optimizer, **changes) for weights in ("host", "device"))
    same(host.model, device.model)
    start = {name: value.clone() for name, value in host.model.state_dict().items()}
    for work in (host, device):
        torch.manual_seed(1)
        for _ in range(4):
            work.step()
    same(host.model, device.model)
    moved = {name for name, value in host.model.state_dict().items() if not torch.equal(value, start[name])}
    assert {name for name in start if name.endswith(("steps", "scale"))} <= moved


@EVERY_PART
def test_what_it_says_is_the_same(changes: dict[str, object]) -> None:
    host, device = (build(weights, "decode", **changes) for weights in ("host", "device"))
    ids = torch.randint(301, (3, 24))
    found = []
    for work in (host, device):
        work.step()
        with torch.no_grad():
            found.append((work.model(ids), work.model.loss(ids, ids)))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=2**-7)  # logits of a slice of the table at a time


def test_host_memory_holds_a_byte_a_weight_and_a_number_a_row() -> None:
    work = build("host")
    matrices = [value for name, value in work.model.state_dict().items() if name.endswith("steps")]
    taps = [parameter for name, parameter in work.model.blocks.named_parameters() if name.endswith("taps")]
    sizes = [size for matrix in matrices for size in (matrix.numel(), 4 * len(matrix))]
    sizes += [2 * tensor.numel() for tensor in (*taps, work.model.head.up.weight)]
    assert work.host_bytes() == {"weights": sum(-(-size // 512) * 512 for size in sizes)}


@pytest.mark.parametrize("weights", ["host", "device"])
def test_no_gradient_outlives_its_matrix(weights: str) -> None:
    """Where parts are computed in one go, a matrix is updated before the next has a gradient."""
    work = build(weights, **DENSE)
    most = 0

    def count(_: torch.Tensor) -> None:
        nonlocal most
        given = [p for p in work.model.parameters() if isinstance(p, Int8Parameter) and p.grad is not None]
        most = max(most, len(given))

    for parameter in work.model.blocks.parameters():
        parameter.register_post_accumulate_grad_hook(count)
    work.step()
    assert most == 1
    assert not any(parameter.grad is not None for parameter in work.model.parameters())


@pytest.mark.parametrize("weights", ["host", "device"])
def test_a_model_moves_saves_and_loads(weights: str) -> None:
    source = build(weights).model
    state = {name: value.clone() for name, value in source.state_dict().items()}
    target = LanguageModel(source.config)
    target.load_state_dict(state)
    target.to(torch.bfloat16)
    same(target, source)
    count = sum(parameter.numel() for parameter in target.parameters())
    native = LanguageModel(dataclasses.replace(source.config, weight_format="native", weights="device"))
    assert count == sum(parameter.numel() for parameter in native.parameters())
    target.load_state_dict(native.state_dict())
    for (name, matrix), steps in zip(
        ((name, value) for name, value in native.state_dict().items() if f"{name[:-6]}steps" in state),
        (value for name, value in target.state_dict().items() if name.endswith("steps")),
        strict=True,
    ):
        scale = target.state_dict()[f"{name[:-6]}scale"].unsqueeze(1)
        assert ((steps * scale - matrix.float()).abs() <= scale * 0.501).all()
