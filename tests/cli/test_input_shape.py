"""Models that read samples of a shape and no tokens, and encoders, through the real process."""

import json

import pytest

import muse_bench
from muse_bench.cli.cases import build_cases
from muse_bench.cli.options import BudgetOptions, ProtocolOptions, ScaleOptions
from muse_bench.config import Case

VISION = """
import torch
from torch import nn

def conv():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 10),
    )

def segments():
    return nn.Conv2d(3, 5, 1)

def several():
    model = conv()
    model.register_forward_hook(lambda module, x, y: (y, y))
    return model

class ViT(nn.Module):
    def __init__(self, width=64, patch=8, size=32):
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
        block = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, images):
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        return self.head(self.blocks(x)[:, 0])

def bert():
    from transformers import BertConfig, BertModel
    sizes = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=500)
    return BertModel(BertConfig(**sizes))
"""
IMAGES = ("--input-shape", "3x32x32", "--batch", "4")
# Worked out by hand: weights and biases in float32, each in whole blocks of 512 bytes.
CONV_WEIGHTS = sum(-(-4 * size // 512) * 512 for size in (16 * 27, 16, 16, 16, 160, 10))
CONV_BUFFERS = 3 * 512
VIT_PARAMETERS = 64 * 192 + 64 + 64 + 17 * 64 + 2 * (12 * 64 * 64 + 13 * 64) + 650


@pytest.fixture
def predicted(muse_bench, tmp_path):
    (tmp_path / "vision.py").write_text(VISION)

    def predict(*arguments):
        process = muse_bench("predict", *arguments, "--output", "out.json")
        assert process.returncode == 0, process.stdout + process.stderr
        (record,) = json.loads((tmp_path / "out.json").read_text())["records"]
        return record, process.stdout

    return predict


@pytest.fixture
def refused(muse_bench, tmp_path):
    (tmp_path / "vision.py").write_text(VISION)

    def refuse(*arguments):
        process = muse_bench("predict", *arguments)
        assert (process.returncode, process.stdout) == (2, "")
        (line,) = process.stderr.splitlines()
        return line.removeprefix("muse-bench: error: ")

    return refuse


def test_a_convolution_net_trains_on_images_and_random_classes(predicted):
    """The batch taken for ids, targets per token, or a sequence shown that nobody read."""
    record, shown = predicted("vision.py:conv", *IMAGES)
    assert record["parameters"] == 16 * 27 + 16 + 2 * 16 + 160 + 10
    ledger = record["ledger"]
    assert (ledger["parameters"], ledger["buffers"]) == (CONV_WEIGHTS, CONV_BUFFERS)
    assert ledger["optimizer_state"] == 2 * CONV_WEIGHTS
    assert ledger["inputs"] == 4 * 3 * 32 * 32 * 4 + 512
    assert (record["input_shape"], record["config"]) == ("3x32x32", {})
    assert record["tokens_per_second"] is None
    assert "train, batch 4, input 3x32x32;" in shown
    assert "seq" not in shown


@pytest.mark.parametrize("mode", ["inference", "forward-backward", "train"])
def test_a_vision_transformer_runs_in_every_mode_in_its_dtype(predicted, mode):
    """Samples in float32 before weights in bfloat16 are an error of the model's; in inference nothing is kept."""
    record, _ = predicted("vision.py:ViT", *IMAGES, "--mode", mode, "--dtype", "bf16")
    assert record["parameters"] == VIT_PARAMETERS
    assert record["ledger"]["inputs"] == 4 * 3 * 32 * 32 * 2 + (512 if mode == "train" else 0)
    assert (record["ledger"]["optimizer_state"] > 0) == (mode == "train")
    assert (record["ledger"]["gradients"] > 0) == (mode != "inference")


def test_micro_batches_are_parts_of_the_samples(predicted):
    whole, parts = (predicted("vision.py:conv", *IMAGES, *more)[0] for more in ((), ("--micro-batch", "1")))
    assert parts["ledger"]["inputs"] == whole["ledger"]["inputs"]
    assert parts["peak_allocated_bytes"] < whole["peak_allocated_bytes"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["vision.py:segments", *IMAGES], "Conv2d returns (4, 5, 32, 32), and the loss of --mode train is that of"),
        (["vision.py:several", *IMAGES], "the model returned tuple, not a tensor or an object with .logits"),
        (["vision.py:several", *IMAGES, "--mode", "forward-backward"], "the model returned tuple, not a tensor"),
    ],
)
def test_an_output_that_no_loss_is_known_for_points_to_setup(refused, arguments, said):
    line = refused(*arguments)
    assert line.startswith(said)
    assert "--setup" in line


def test_inference_keeps_whatever_the_model_returns(predicted):
    assert predicted("vision.py:several", *IMAGES, "--mode", "inference")[0]["status"] == "ok"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["m.py:f", "--seq", "8"], "'m.py:f' has an --input-shape, which --seq would not change: leave it out"),
        (["m.py:f", "--vocab", "8"], "which --vocab would not change"),
        (["m.py:f", "--logits", "last"], "which --logits would not change"),
        (["m.py:f", "--layers", "2"], "which --layers would not change"),
        (["ultra"], "'ultra' reads tokens: --input-shape is for file.py:factory"),
        (["hf:gpt2"], "'hf:gpt2' reads tokens"),
        (["--setup", "m.py:f"], "'setup:m.py:f' has a batch of its own: leave out --input-shape"),
        (["m.py:f", "--mode", "decode"], "'m.py:f' cannot decode"),
    ],
)
@pytest.mark.parametrize("command", ["measure", "predict"])
def test_what_is_about_tokens_is_refused(call, capsys, command, arguments, said):
    assert call(command, *arguments, "--input-shape", "3x32x32") == 2
    assert said in capsys.readouterr().err


def test_a_case_reads_back_as_it_was_sent():
    """A list for the tuple would make two equal cases differ, and a case unhashable."""
    groups = ScaleOptions(batch=2), ProtocolOptions(), BudgetOptions()
    (case,) = build_cases(["m.py:f"], *groups, "3x8x8")
    assert (case.input_shape, case.seq) == ((3, 8, 8), 1)
    assert Case.from_json(json.loads(json.dumps(case.to_json()))) == case


def test_python_takes_the_shape_as_text_or_numbers():
    from torch import nn

    found = [muse_bench.predict(nn.Linear(8, 4).bfloat16(), input_shape=shape, batch=2) for shape in ("8", (8,), [8])]
    assert {record.input_shape for record in found} == {"8"}
    assert found[0].dtype == "bf16"  # the model keeps its own, and the samples are of it
    assert len({record.peak_allocated_bytes for record in found}) == 1


@pytest.mark.parametrize("mode", ["inference", "forward-backward"])
def test_an_encoder_of_hidden_states_runs(predicted, mode):
    pytest.importorskip("transformers")
    record, _ = predicted("vision.py:bert", "--seq", "32", "--batch", "2", "--mode", mode)
    assert (record["ledger"]["gradients"] > 0) == (mode != "inference")


def test_hidden_states_have_no_loss(refused):
    """The cross-entropy over the width of the model would be a number that means nothing."""
    pytest.importorskip("transformers")
    line = refused("vision.py:bert", "--seq", "32")
    assert line.startswith(
        "BertModel returns hidden states, which have no loss: choose another --mode, or bring a loss"
    )
