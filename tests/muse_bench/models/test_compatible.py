"""The factories of the reports' code: their names and arguments, their loop, and our models behind them."""

import functools
import inspect
import itertools
import math

import pytest
import torch
from torch import nn

from muse_bench.config import Sizes
from muse_bench.errors import UsageError
from muse_bench.layers.embedding import TensorTrainEmbedding
from muse_bench.layers.mixer import Attention, SemiseparableMixer
from muse_bench.layers.quantised import Int8Linear, quantise_linears
from muse_bench.models.compatible import (
    create_extreme_memory_optimized_model,
    create_memory_optimized_model,
    create_phase1_model,
    create_ultimate_memory_optimized_model,
    create_ultra_memory_optimized_model,
)
from muse_bench.models.language_model import LanguageModel
from muse_bench.models.presets import find_preset

pytestmark = pytest.mark.usefixtures("one_thread")

VOCAB, SEQ = 61, 13  # of the fixture ids
WIDTH, LAYERS = 32, 2
LEVELS = {
    "standard": create_memory_optimized_model,
    "ultra": create_ultra_memory_optimized_model,
    "extreme": create_extreme_memory_optimized_model,
    "ultimate": create_ultimate_memory_optimized_model,
}
ALL = [create_phase1_model, functools.partial(create_phase1_model, replace_attention=True), *LEVELS.values()]
NAMES = ["phase1", "phase1-both", *LEVELS]
every_model = pytest.mark.parametrize("factory", ALL, ids=NAMES)


def build(factory, **arguments):
    torch.manual_seed(0)
    return factory(vocab_size=VOCAB, d_model=WIDTH, n_layers=LAYERS, **arguments)


def preset_model(name):
    torch.manual_seed(9)
    return LanguageModel(find_preset(name).configure(Sizes(vocab_size=VOCAB, d_model=WIDTH, n_layers=LAYERS)))


def speak_up(model):
    """As initialised, mixers and gates hardly show in the logits."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
        else:
            nn.init.uniform_(parameter, 0.2, 1.0)
    return model


def train(model, steps=8, **options):
    """The loop of the reports' appendix, over one batch; the losses."""
    tokens = torch.randint(VOCAB, (2, SEQ + 1), generator=torch.Generator().manual_seed(2))
    dataloader = [{"input_ids": tokens[:, :-1], "labels": tokens[:, 1:]}] * steps
    criterion, losses = nn.CrossEntropyLoss(), []
    optimizer = torch.optim.AdamW(model.parameters(), **options)
    for batch in dataloader:
        output = model(batch["input_ids"])
        loss = criterion(output.view(-1, VOCAB), batch["labels"].reshape(-1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


# --- their arguments


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("standard", 2_158_080), ("ultra", 616_088), ("extreme", 520_493), ("ultimate", 486_690)],
)
def test_the_levels_have_exactly_the_reports_parameters(name, parameters):
    """Given by position, as the reports' code does: two that trade places make another model."""
    model = LEVELS[name](10_000, 512, 6)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("name", LEVELS)
def test_the_arguments_are_in_the_reports_order(name):
    extra = ["use_quantization"] if name == "extreme" else []
    expected = ["vocab_size", "d_model", "n_layers", *extra, "device", "dtype"]
    assert list(inspect.signature(LEVELS[name]).parameters) == expected


@every_model
def test_a_model_is_in_float32_on_the_cpu_unless_told(factory):
    tensors = [*(model := build(factory)).parameters(), *model.buffers()]
    assert {(tensor.dtype, tensor.device.type) for tensor in tensors} == {(torch.float32, "cpu")}
    assert model.training
    moved = [*(model := build(factory, device="meta", dtype=torch.bfloat16)).parameters(), *model.buffers()]
    assert {(tensor.dtype, tensor.device.type) for tensor in moved} == {(torch.bfloat16, "meta")}


@pytest.mark.parametrize("embeddings", [False, True])
@pytest.mark.parametrize("attention", [False, True])
def test_phase_1_replaces_what_it_is_told_to(embeddings, attention):
    model = build(create_phase1_model, replace_embeddings=embeddings, replace_attention=attention, max_seq_len=7)
    assert isinstance(model.embedding, TensorTrainEmbedding) == embeddings
    assert not embeddings or len(model.embedding.theta) == 16
    for block in model.blocks:
        assert type(block.mixer) is (SemiseparableMixer if attention else Attention)
        assert (block.mixer.rank == 32) if attention else (block.mixer.n_heads == 8)
    assert model(torch.zeros(1, 7, dtype=torch.int64)).shape == (1, 7, VOCAB)
    with pytest.raises(IndexError, match="8 tokens"):
        model(torch.zeros(1, 8, dtype=torch.int64))


@pytest.mark.parametrize("factory", [*LEVELS.values(), ALL[1]], ids=[*LEVELS, "phase1-both"])
def test_without_attention_any_width_will_do(factory, ids):
    """Eight heads divide few widths, and there are none here to be divided."""
    assert factory(vocab_size=VOCAB, d_model=37, n_layers=1)(ids).shape == (2, SEQ, VOCAB)


@every_model
@pytest.mark.parametrize("wrong", [{"vocab_size": 0}, {"d_model": -8}, {"n_layers": 1.5}], ids=str)
def test_a_wrong_size_is_told_in_one_line(factory, wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(UsageError, match=f"^{name} {value} is not a size"):
        factory(**{"vocab_size": VOCAB, "d_model": WIDTH, "n_layers": LAYERS, **wrong})


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(UsageError, match="d_model 32 is not divisible by heads 5"):
        build(create_phase1_model, n_heads=5)


# --- their loop


@every_model
def test_the_reports_loop_trains_and_their_inference_runs(factory, ids):
    model = build(factory)
    losses = train(model, lr=1e-3)
    assert losses[0] == pytest.approx(math.log(VOCAB), rel=0.1)
    assert all(after < before for before, after in itertools.pairwise(losses))
    model.eval()
    with torch.no_grad():
        output = model(ids)
    assert output.shape == (2, SEQ, VOCAB)
    assert not output.requires_grad


@every_model
def test_half_runs_and_trains_with_an_eps_that_half_can_hold(factory, ids):
    """A part that is left in float32 is an error of the operation; eps 1e-8 would be 0, and the weights NaN."""
    model = build(factory).half()
    losses = train(model, lr=1e-3, eps=1e-4)
    assert losses[-1] < losses[0]
    with torch.no_grad():
        output = model.eval()(ids)
    assert (output.dtype, output.shape) == (torch.float16, (2, SEQ, VOCAB))
    assert output.isfinite().all()


# --- our models


@pytest.mark.parametrize("name", LEVELS)
def test_the_same_weights_give_the_logits_of_the_preset(name, ids):
    theirs, ours = speak_up(build(LEVELS[name])), preset_model(name)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert torch.equal(ours(ids), theirs(ids))


def int8_of(model):
    """The extreme model in INT8 with these weights."""
    quantised = build(create_extreme_memory_optimized_model, use_quantization=True).to(model.embedding.theta.dtype)
    quantised.load_state_dict(model.state_dict())
    return quantised


@pytest.mark.parametrize("which", [*NAMES, "int8"])
def test_a_token_never_changes_the_logits_before_it_and_does_change_those_after(which, ids):
    """Not a bit, where the reports' models read the future."""
    model = speak_up(build(create_extreme_memory_optimized_model if which == "int8" else ALL[NAMES.index(which)]))
    model = int8_of(model.double()) if which == "int8" else model.double()
    before = model(ids)
    for t in range(SEQ):
        other = ids.clone()
        other[:, t] = (ids[:, t] + 1) % VOCAB
        after = model(other)
        assert torch.equal(after[:, :t], before[:, :t]), t
        assert (after[:, t:] != before[:, t:]).any(-1).all(), t


# --- INT8


def test_trained_weights_become_those_of_inference(ids):
    """As the preset has it; what is already INT8 comes back as it was."""
    trained = speak_up(build(create_extreme_memory_optimized_model))
    quantised = int8_of(trained)
    again = build(create_extreme_memory_optimized_model, use_quantization=True)
    again.load_state_dict(quantised.state_dict())
    ours = preset_model("extreme")
    ours.load_state_dict(trained.state_dict())
    expected = quantise_linears(ours.eval())(ids)
    assert torch.equal(quantised(ids), expected)
    assert torch.equal(again(ids), expected)
    assert not torch.equal(trained(ids), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_int8_matrices_stay_so_in_every_dtype(dtype, ids):
    """A scale in half is one that the product refuses, and one that has lost digits when it comes back."""
    model = build(create_extreme_memory_optimized_model, use_quantization=True)
    linears = [module for module in model.modules() if isinstance(module, Int8Linear)]
    assert linears
    assert not any(type(module) is nn.Linear for module in model.modules())
    scales = [linear.scale.clone() for linear in linears]
    with torch.no_grad():
        output = model.to(dtype)(ids)
    assert output.dtype == dtype
    assert output.isfinite().all()
    assert {linear.weight.dtype for linear in linears} == {torch.int8}
    assert all(torch.equal(linear.scale, scale) for linear, scale in zip(linears, scales, strict=True))


def test_an_int8_model_says_that_it_cannot_be_trained(ids):
    model = build(create_extreme_memory_optimized_model, use_quantization=True)
    assert not model.eval().training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(UsageError, match="INT8 weights cannot be trained: train with use_quantization=False"):
        model.train()
    assert not any(module.training for module in model.modules())
