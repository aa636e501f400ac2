"""Parameters by formula are those of the model that is built, and shapes are chosen by them."""

import dataclasses
from typing import Any

import pytest
import torch

from muse_bench.config import Sizes
from muse_bench.errors import UsageError
from muse_bench.models.language_model import LanguageModel
from muse_bench.models.parameters import count_parameters
from muse_bench.models.presets import PRESETS
from muse_bench.models.shapes import choose_shape
from muse_bench.models.variants import find_model

MODELS = (
    *PRESETS,
    "standard+decay=true",
    "baseline+embedding=factorised+embedding_rank=7",
    "baseline+shared_norm=true+norm=rms-norm",
    "muse+attention_every=3",
    "muse+attention_every=1+n_heads=3+mixer_rank=96",
)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("layers", [1, 2, 5])
def test_the_formula_counts_what_is_built(name: str, layers: int) -> None:
    """A part that is left out or counted twice; odd sizes show a factor that is rounded the other way."""
    sizes = Sizes(vocab_size=331, d_model=384, n_layers=layers, n_heads=3, seq_len=29)
    config = find_model(name).configure(sizes)
    with torch.device("meta"):
        model = LanguageModel(config)
    assert count_parameters(config) == sum(parameter.numel() for parameter in model.parameters())


def count(name: str, sizes: Sizes) -> int:
    return count_parameters(PRESETS[name].configure(sizes))


@pytest.mark.parametrize(("parameters", "shape"), [(7, (4_096, 32, 32)), (13, (5_120, 40, 40))], ids=["7b", "13b"])
def test_a_published_name_has_its_published_shape(parameters: int, shape: tuple[int, int, int]) -> None:
    found = choose_shape(PRESETS["baseline"], parameters * 10**9, Sizes())
    assert (found.d_model, found.n_layers, found.n_heads) == shape


def test_a_published_shape_is_not_taken_for_a_model_that_has_fewer_parameters_there() -> None:
    """Of `muse` 4,096 x 32 has half of what is called 7B."""
    found = choose_shape(PRESETS["muse"], 7 * 10**9, Sizes())
    assert count("muse", found) >= 7 * 10**9


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("parameters", [20_000_000, 1_234_567_890, 70 * 10**9, 100 * 10**9, 10**15 - 1])
def test_there_are_as_many_as_were_asked_for_and_no_block_too_many(name: str, parameters: int) -> None:
    found = choose_shape(PRESETS[name], parameters, Sizes())
    assert count(name, found) >= parameters
    assert found.d_model % 128 == 0
    assert found.n_heads * 128 == found.d_model
    if found.n_layers > 1:
        assert count(name, dataclasses.replace(found, n_layers=found.n_layers - 1)) < parameters


def test_the_width_is_in_proportion_to_the_depth() -> None:
    """A search that ends at its first width, or its last, gives a chimney or a plate."""
    found = choose_shape(PRESETS["baseline"], 100 * 10**9, Sizes())
    step: Any = found.d_model / found.n_layers / (8_192 / 80)
    assert 0.95 < step < 1.05


def test_fewer_than_the_smallest_shape_has_are_refused() -> None:
    with pytest.raises(UsageError, match=r"--params 1,000 is fewer than the 13,\d+,\d+ .* --vocab"):
        choose_shape(PRESETS["baseline"], 1_000, Sizes())
