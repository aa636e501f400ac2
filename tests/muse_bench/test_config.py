"""Configs and cases refuse what cannot be built or run, in one line, and travel as JSON unchanged."""

import dataclasses
import json

import pytest

from muse_bench.choices import LARGEST_SIZE, choices
from muse_bench.config import Case, ModelConfig, Sizes
from muse_bench.config import Mode as ModeWords
from muse_bench.errors import ExitCode, UsageError

SIZES = {"vocab_size": 61, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 16}
LOW_RANK = {
    "embedding": "htt",
    "embedding_rank": 2,
    "mixer": "ar-ssm",
    "mixer_rank": 4,
    "ffn": "low-rank",
    "ffn_rank": 4,
    "head": "low-rank",
    "head_rank": 4,
}


def refusal(build, **values):
    """The message with which building is refused: one line, and exit code 2."""
    with pytest.raises(UsageError) as caught:
        build(**values)
    message = str(caught.value)
    assert caught.value.exit_code == ExitCode.USAGE == 2
    assert "\n" not in message
    return message


@pytest.mark.parametrize("size", [0, -1, LARGEST_SIZE + 1, 1.5, "64", None])
@pytest.mark.parametrize("name", list(SIZES))
def test_a_size_of_a_model_is_a_whole_number_from_1_to_2_to_the_40(name, size):
    message = refusal(ModelConfig, **{**SIZES, name: size})
    assert name in message
    assert str(size) in message
    assert "1 to 2^40" in message


def test_the_largest_size_is_still_a_size():
    assert ModelConfig(**{**SIZES, "vocab_size": LARGEST_SIZE}).vocab_size == LARGEST_SIZE


@pytest.mark.parametrize("name", ["vocab_size", "d_model", "n_layers", "n_heads", "seq_len"])
def test_sizes_are_checked_before_a_preset_scales_them(name):
    """d_model // divisor of a negative width would still be a legal rank."""
    assert name in refusal(Sizes, **{name: -8})


def test_sizes_default_to_those_of_the_main_job():
    assert dataclasses.astuple(Sizes()) == (50_000, 1_024, 12, 16, 2_048)


@pytest.mark.parametrize("optimizer", ["adamw", "muon-8bit"])
def test_int8_weights_have_an_optimizer_that_can_write_them(optimizer):
    config = ModelConfig(**SIZES, weight_format="int8")
    message = refusal(Case, model="baseline", config=config, optimizer=optimizer)
    assert optimizer in message
    assert "adafactor-8bit" in message
    Case(model="baseline", config=config, optimizer="adafactor-8bit")
    Case(model="baseline", config=config, optimizer=optimizer, mode="inference")


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor-8bit", "none"])
@pytest.mark.parametrize("mode", ["train", "forward-backward"])
def test_int4_weights_are_for_inference_alone(mode, optimizer):
    """No optimizer writes them, and there is no gradient of them."""
    config = ModelConfig(**SIZES, weight_format="int4")
    message = refusal(Case, model="baseline", config=config, mode=mode, optimizer=optimizer)
    assert f"'{mode}'" in message
    assert "int8" in message
    for allowed in ("inference", "decode"):
        Case(model="baseline", config=config, mode=allowed, optimizer=optimizer)


@pytest.mark.parametrize("weight_format", ["int8", "int4"])
def test_the_encoder_has_no_quantised_weights(weight_format):
    assert "encoder" in refusal(ModelConfig, **SIZES, block="encoder", weight_format=weight_format)


@pytest.mark.parametrize("heads", [3, 5, 64])
def test_heads_divide_the_width_of_attention(heads):
    message = refusal(ModelConfig, **{**SIZES, "n_heads": heads})
    assert f"d_model 32 is not divisible by heads {heads}" in message


def test_a_model_without_attention_needs_no_heads_that_divide():
    assert ModelConfig(**{**SIZES, **LOW_RANK, "n_heads": 5}).n_heads == 5


@pytest.mark.parametrize(
    "part", ["block", "embedding", "mixer", "ffn", "norm", "head", "loss", "checkpointing", "gate", "positions"]
)
def test_an_unknown_part_is_refused_with_the_known_ones(part):
    known = choices(ModelConfig.__annotations__[part])
    message = refusal(ModelConfig, **{**SIZES, part: "moe"})
    assert f"{part} 'moe' is unknown: choose from {', '.join(known)}" == message


@pytest.mark.parametrize("part", ["embedding", "mixer", "ffn", "head"])
def test_a_low_rank_part_names_the_rank_it_lacks(part):
    assert f"{part}_rank" in refusal(ModelConfig, **{**SIZES, **LOW_RANK, f"{part}_rank": None})


@pytest.mark.parametrize("rank", [0, -3, LARGEST_SIZE + 1, 2.5])
@pytest.mark.parametrize("part", ["embedding", "mixer", "ffn", "head"])
def test_a_rank_is_a_size_too(part, rank):
    message = refusal(ModelConfig, **{**SIZES, **LOW_RANK, f"{part}_rank": rank})
    assert f"{part}_rank {rank}" in message


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_dropout_is_a_probability_below_one(dropout):
    assert f"dropout {dropout}" in refusal(ModelConfig, **{**SIZES, "dropout": dropout})


@pytest.mark.parametrize("weight", [-1e-3, float("nan"), float("inf")])
def test_the_penalty_of_the_gates_is_no_reward(weight):
    assert f"gate_l1 {weight}" in refusal(ModelConfig, **{**SIZES, **LOW_RANK, "gate_l1": weight})


@pytest.mark.parametrize("name", ["batch", "seq", "vocab_size", "new_tokens", "measured_steps", "micro_batch"])
@pytest.mark.parametrize("size", [0, -2, LARGEST_SIZE + 1])
def test_a_size_of_a_case_is_a_size(name, size):
    message = refusal(Case, model="baseline", config=ModelConfig(**SIZES), **{name: size})
    assert f"{name} {size} is not a size" in message


def test_a_case_may_do_without_a_warm_up_but_not_with_less():
    assert Case(model="baseline", config=None, warmup_steps=0).traced_steps == 1
    assert "warm-up steps -1" in refusal(Case, model="baseline", config=None, warmup_steps=-1)


@pytest.mark.parametrize("name", ["mode", "dtype", "optimizer", "logits", "workspace"])
def test_an_unknown_word_of_a_case_is_refused(name):
    message = refusal(Case, model="baseline", config=None, **{name: "fastest"})
    assert message.startswith(f"{name} 'fastest' is unknown: choose from ")


def test_a_model_that_is_not_causal_cannot_decode():
    encoder = ModelConfig(**SIZES, block="encoder")
    message = refusal(Case, model="encoder", config=encoder, mode="decode")
    assert message.startswith("'encoder' cannot decode")
    for mode in choices(ModeWords):
        if mode != "decode":
            assert Case(model="encoder", config=encoder, mode=mode).mode == mode


@pytest.mark.parametrize(
    ("mode", "warmup", "traced", "first_steady"),
    [("train", 2, 3, 2), ("inference", 0, 1, 0), ("forward-backward", 2, 1, 0), ("decode", 4, 2, 1)],
)
def test_how_many_steps_show_both_peaks(mode, warmup, traced, first_steady):
    """The reports' protocol is one first step, whatever warm-up is asked for."""
    case = Case(model="baseline", config=None, mode=mode, warmup_steps=warmup)
    assert (case.traced_steps, case.first_steady_step) == (traced, first_steady)


def test_the_limit_is_the_budget_less_its_headroom():
    case = Case(model="baseline", config=None, budget_bytes=1_000, headroom=0.1)
    assert case.limit_bytes == 900
    assert isinstance(case.limit_bytes, int)


@pytest.mark.parametrize(
    "config", [None, ModelConfig(**SIZES), ModelConfig(**SIZES, **LOW_RANK, gate="gumbel", gate_l1=0.5, decay=True)]
)
def test_a_case_goes_through_json_unchanged(config):
    case = Case(
        model="a.b:c",
        config=config,
        mode="inference",
        dtype="bf16",
        micro_batch=2,
        workspace="off",
        gpu="rtx-3080",
        seed=7,
        headroom=0.25,
    )
    assert Case.from_json(json.loads(json.dumps(case.to_json()))) == case


def test_a_case_from_json_is_checked_again():
    """A request that another version wrote must not reach the model unchecked."""
    values = Case(model="baseline", config=ModelConfig(**SIZES)).to_json()
    assert "n_heads" in refusal(Case.from_json, values={**values, "config": {**values["config"], "n_heads": 0}})
