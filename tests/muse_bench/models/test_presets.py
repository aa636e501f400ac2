"""The presets are what they are said to be: their parts, and their parameters to the last one."""

import pytest
import torch

from muse_bench.config import Sizes
from muse_bench.errors import UsageError
from muse_bench.layers.embedding import TensorTrainEmbedding
from muse_bench.models.language_model import LanguageModel
from muse_bench.models.presets import PRESETS, Share, find_preset

SIZES = Sizes(vocab_size=10_000, d_model=512, n_layers=6, n_heads=8, seq_len=512)


def count(module):
    """Parameters, a shared one once."""
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(name, sizes=SIZES):
    with torch.device("meta"):
        return LanguageModel(find_preset(name).configure(sizes))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("encoder", 29_164_304),
        ("standard", 2_158_080),
        ("ultra", 616_088),
        ("extreme", 520_493),
        ("ultimate", 486_690),
    ],
)
def test_the_reports_models_have_exactly_their_parameters(name, parameters):
    """A bias, norm or gate too many or too few would compare another model."""
    assert count(on_meta(name)) == parameters


def test_our_baselines_have_the_parameters_of_a_gpt():
    """By hand: 12 d^2 + 13 d a block, two norm vectors, a row a position, the table once where it is tied."""
    d, vocab, layers, seq = 512, 10_000, 6, 512
    tied = layers * (12 * d * d + 13 * d) + 2 * d + seq * d + vocab * d
    assert count(on_meta("tuned")) == tied
    assert count(on_meta("baseline")) == tied + vocab * d


@pytest.mark.parametrize(
    ("vocab_size", "d_model", "rank", "parameters"), [(50_257, 1_024, 16, 229_904), (10_000, 512, 8, 36_808)]
)
def test_the_embedding_alone_has_exactly_its_parameters(vocab_size, d_model, rank, parameters):
    with torch.device("meta"):
        assert count(TensorTrainEmbedding(vocab_size, d_model, rank)) == parameters


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("encoder", {"block": "encoder", "n_heads": 8, "dropout": 0.1, "positions": "none", "head_bias": True}),
        ("baseline", {"mixer": "attention", "positions": "learned", "ffn": "dense", "head": "dense", "loss": "plain"}),
        ("baseline", {"norm": "layer-norm", "checkpointing": "none", "dropout": 0.0, "head_bias": False}),
        ("tuned", {"mixer": "attention", "positions": "learned", "head": "tied", "loss": "fused"}),
        ("tuned", {"checkpointing": "blocks", "embedding": "dense"}),
        ("standard", {"embedding": "htt", "embedding_rank": 16, "mixer": "ar-ssm", "mixer_rank": 32}),
        ("standard", {"ffn": "four-matrix", "ffn_rank": 32, "head": "low-rank", "head_rank": 32, "head_bias": True}),
        ("standard", {"norm": "layer-norm", "shared_norm": False, "checkpointing": "blocks"}),
        ("ultra", {"embedding_rank": 4, "mixer_rank": 8, "ffn": "low-rank", "ffn_rank": 8, "shared_norm": True}),
        ("ultra", {"norm": "layer-norm", "head": "low-rank", "head_rank": 4, "checkpointing": "everything"}),
        ("extreme", {"embedding_rank": 3, "mixer_rank": 6, "ffn": "low-rank", "ffn_rank": 5, "norm": "rms-norm"}),
        ("extreme", {"shared_norm": False, "head": "tied", "int8_inference": True}),
        ("ultimate", {"embedding_rank": 2, "mixer_rank": 4, "ffn_rank": 4, "norm": "rms-norm", "shared_norm": True}),
        ("ultimate", {"head": "tied", "int8_inference": False}),
    ],
)
def test_a_preset_has_the_parts_that_are_documented(name, expected):
    config = find_preset(name).configure(SIZES)
    assert {part: getattr(config, part) for part in expected} == expected


@pytest.mark.parametrize(
    ("name", "dtype", "optimizer", "micro_batch"),
    [
        ("encoder", "fp32", "adamw", None),
        ("baseline", "fp32", "adamw", None),
        ("tuned", "bf16", "adamw-fused", None),
        ("standard", "fp16", "adamw", None),
        ("ultra", "fp16", "adamw", None),
        ("extreme", "fp16", "adamw", None),
        ("ultimate", "fp16", "adamw", 1),
    ],
)
def test_a_preset_is_trained_as_documented(name, dtype, optimizer, micro_batch):
    preset = find_preset(name)
    assert (preset.dtype, preset.optimizer, preset.micro_batch) == (dtype, optimizer, micro_batch)


@pytest.mark.parametrize(
    ("name", "part", "narrow", "wide"),
    [
        ("standard", "ffn_rank", 8, 64),
        ("standard", "head_rank", 32, 32),
        ("ultra", "ffn_rank", 8, 16),
        ("ultra", "head_rank", 4, 8),
        ("extreme", "ffn_rank", 4, 10),
        ("ultimate", "ffn_rank", 2, 8),
    ],
)
def test_ranks_follow_the_width_and_keep_their_minimum(name, part, narrow, wide):
    """At widths of 128 and 1,024: the quotient or the minimum, whichever is more; 1,024 // 96 is 10."""
    for d_model, rank in ((128, narrow), (1_024, wide)):
        assert getattr(find_preset(name).configure(Sizes(d_model=d_model, n_heads=8)), part) == rank


def test_a_share_divides_without_remainder():
    assert [Share(96, 4).of(width) for width in (95, 383, 480, 575, 576)] == [4, 4, 5, 5, 6]


@pytest.mark.parametrize("name", PRESETS)
def test_sizes_reach_the_model(name):
    """Some have heads of their own: the reports' baseline 8, muse and streamed one for each 128 of the width."""
    config = find_preset(name).configure(Sizes(vocab_size=61, d_model=48, n_layers=3, n_heads=4, seq_len=7))
    assert (config.vocab_size, config.d_model, config.n_layers, config.max_seq_len) == (61, 48, 3, 7)
    assert config.n_heads == {"encoder": 8, "muse": 1, "streamed": 1}.get(name, 4)


@pytest.mark.parametrize("name", PRESETS)
def test_a_summary_is_one_line(name):
    summary = PRESETS[name].summary
    assert summary
    assert "\n" not in summary


@pytest.mark.parametrize(("typed", "meant"), [("ulta", "ultra"), ("base-line", "baseline"), ("extrem", "extreme")])
def test_a_misspelt_model_is_answered_with_those_close_to_it(typed, meant):
    with pytest.raises(UsageError) as caught:
        find_preset(typed)
    message = str(caught.value)
    assert message.startswith(f"unknown model '{typed}': choose from ")
    assert meant in message
    assert "encoder" not in message


def test_a_model_like_no_other_is_answered_with_all_of_them():
    with pytest.raises(UsageError) as caught:
        find_preset("gpt-2-xl")
    assert all(name in str(caught.value) for name in PRESETS)
    assert "file.py:factory" in str(caught.value)
