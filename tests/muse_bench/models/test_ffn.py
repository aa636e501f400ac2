"""The low-rank feed-forward part runs as one operation, and is still the layers that it is made of."""

import pytest
import torch
from torch import nn

from muse_bench.autocast import forward_autocast, meta_autocast
from muse_bench.layers.ffn import LowRankFFN
from muse_bench.layers.quantised import Int8Linear, quantise_linears

WIDTHS = [(6, 2, 6), (6, 2, 24, 2, 6)]
every_form = pytest.mark.parametrize("widths", WIDTHS, ids=str)


def plain(ffn: LowRankFFN) -> nn.Sequential:
    """The same layers, run one by one."""
    return nn.Sequential(*ffn)


@every_form
def test_it_computes_what_its_layers_do_and_names_parameters_as_they_do(widths):
    ffn, x = LowRankFFN(*widths).double(), torch.randn(2, 3, 6, dtype=torch.float64)
    torch.testing.assert_close(ffn(x), plain(ffn)(x))
    assert list(ffn.state_dict()) == list(plain(ffn).state_dict())
    assert list(ffn.state_dict())[-1] == f"{2 * len(widths) - 4}.bias"
    gradients = [torch.autograd.grad(model(x).square().sum(), list(ffn.parameters())) for model in (ffn, plain(ffn))]
    torch.testing.assert_close(*gradients)


@every_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_multiplies_in_its_dtype_on_meta_too(widths, dtype):
    """A weight in another dtype than x is an error of the operation, and so is one that autocast should have cast."""
    with torch.device("meta"):
        ffn, x = LowRankFFN(*widths), torch.empty(2, 6, dtype=dtype)
    with meta_autocast(torch.bfloat16), forward_autocast(x.device, torch.bfloat16):
        assert ffn(x).dtype == torch.bfloat16
    ffn, x = LowRankFFN(*widths), torch.randn(2, 6, dtype=dtype)
    with forward_autocast(x.device, torch.bfloat16):
        y = ffn(x)
        torch.testing.assert_close(y, plain(ffn)(x))
    y.float().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in ffn.parameters())


def test_without_autocast_another_dtype_is_an_error():
    with pytest.raises(ValueError, match=r"weights\[0\]: expected dtype bfloat16, got float32"):
        LowRankFFN(6, 2, 6)(torch.randn(2, 6, dtype=torch.bfloat16))


@every_form
def test_quantised_layers_run_themselves(widths):
    ffn, x = LowRankFFN(*widths), torch.randn(3, 6)
    quantised = quantise_linears(ffn)
    assert [type(layer) for layer in quantised][::2] == [Int8Linear] * (len(widths) - 1)
    assert torch.equal(quantised(x), plain(ffn)(x))


@every_form
def test_a_replaced_or_hooked_layer_is_run(widths):
    """One operation over all the weights would pass them by."""
    ffn, x, seen = LowRankFFN(*widths), torch.randn(3, 6), []
    handle = ffn[1].register_forward_hook(lambda module, args, output: seen.append(output))
    ffn(x)
    assert len(seen) == 1
    handle.remove()
    ffn[1] = nn.Tanh()
    assert torch.equal(ffn(x), plain(ffn)(x))
