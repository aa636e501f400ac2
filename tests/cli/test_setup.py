"""Anyone's model through the real process: a step of their own, and models of transformers by config."""

import json

import pytest

from muse_bench.errors import UsageError
from muse_bench.models.hugging_face import build_hugging_face

SETUP = """
import torch
from torch import nn
import muse_bench

def set_up(device):
    body, head = nn.Linear(256, 512, device=device), nn.Conv2d(3, 4, 3, device=device)
    scale = nn.Parameter(torch.ones(1024, device=device))
    optimizer = torch.optim.AdamW([*body.parameters(), *head.parameters(), scale])
    x, image = torch.randn(64, 256, device=device), torch.randn(2, 3, 32, 32, device=device)

    def step():
        (body(x).square().mean() + head(image).mean() + scale.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return muse_bench.Step(step, [body, head], optimizer, [x, image])

def in_default_dtype(device):
    model = nn.Linear(1024, 1024)
    x = torch.ones(1, 1024)
    return muse_bench.Step(lambda: model(x), model)

def raises(device):
    raise ValueError("no\\nimages")

def on_the_cpu(device):
    return muse_bench.Step(print, nn.Linear(2, 2, device="cpu"))

def batch_on_the_cpu(device):
    return muse_bench.Step(print, nn.Linear(2, 2), inputs=[torch.ones(2, device="cpu")])

def a_model(device):
    return nn.Linear(2, 2)

def moves(device):
    model = nn.Linear(2, 2)
    return muse_bench.Step(lambda: model(torch.ones(2, 2)).cpu().numpy(), model)
"""


@pytest.fixture
def predicted(muse_bench, tmp_path):
    """Predicts and returns the record; the files of SETUP are there."""
    (tmp_path / "mine.py").write_text(SETUP)

    def predict(*arguments):
        process = muse_bench("predict", *arguments, "--output", "out.json")
        assert process.returncode == 0, process.stderr
        (record,) = json.loads((tmp_path / "out.json").read_text())["records"]
        return record, process.stdout

    return predict


def refused(process):
    assert process.returncode == 2
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    return line.removeprefix("muse-bench: error: ")


def test_a_step_of_its_own_has_its_tensors_in_the_ledger(predicted):
    """Each of these is 0, or temporary, when the step's parts are not told to the observer."""
    record, shown = predicted("--setup", "mine.py:set_up")
    sizes = [256 * 512 * 4, 512 * 4, 4 * 27 * 4, 512, 1024 * 4]  # allocated in multiples of 512 bytes
    parameters = sum(-(-size // 512) * 512 for size in sizes)
    assert record["model"] == "setup:mine.py:set_up"
    assert record["ledger"]["parameters"] == parameters
    assert record["ledger"]["gradients"] >= parameters
    assert record["ledger"]["optimizer_state"] == 2 * parameters
    assert record["ledger"]["inputs"] == 64 * 256 * 4 + 2 * 3 * 32 * 32 * 4
    assert {"0", "1", "(outside the model)"} <= {row["module"] for row in record["modules"]}
    assert record["optimizer"] is None  # it is the setup's own, not the one that --optimizer names
    assert record["config"] == {}
    assert "a step of its own" in shown
    assert "seq 2,048" not in shown


def test_a_setup_builds_on_the_device_and_in_the_dtype_unless_it_says_otherwise(predicted):
    record, _ = predicted("--setup", "mine.py:in_default_dtype", "--dtype", "bf16")
    assert record["ledger"]["parameters"] == 1024 * 1024 * 2 + 1024 * 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mine.py:raises", "the setup 'mine.py:raises' raised ValueError: no images"),
        ("mine.py:on_the_cpu", "the setup 'mine.py:on_the_cpu' has parameters on cpu, not on meta: build them on"),
        ("mine.py:batch_on_the_cpu", "the setup 'mine.py:batch_on_the_cpu' has inputs on cpu, not on meta"),
        ("mine.py:a_model", "the setup 'mine.py:a_model' returned Linear, not a muse_bench.Step"),
        ("mine.py:absent", "'mine.py' has no function 'absent'"),
        ("mine.py", "'mine.py' does not name a setup: write package.module:factory or file.py:factory"),
    ],
)
def test_a_setup_that_fails_is_told_in_one_line(muse_bench, tmp_path, name, said):
    (tmp_path / "mine.py").write_text(SETUP)
    assert refused(muse_bench("predict", "--setup", name)).startswith(said)


def test_a_step_that_cannot_be_traced_names_its_line(muse_bench, tmp_path):
    (tmp_path / "mine.py").write_text(SETUP)
    process = muse_bench("predict", "--setup", "mine.py:moves")
    assert process.returncode == 4
    line = next(index for index, text in enumerate(SETUP.splitlines(), 1) if ".numpy()" in text)
    assert f"mine.py:{line} in <lambda>" in process.stdout.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing argument 'MODEL'"),
        (["ultra", "--setup", "mine.py:set_up"], "--setup mine.py:set_up brings its own model: leave out 'ultra'"),
        (["--setup", "mine.py:f", "--batch", "2", "--seq", "8"], "which --seq and --batch would not change"),
        (["--setup", "mine.py:f", "--mode", "inference"], "which --mode would not change"),
        (["hf:gpt2", "--vocab", "9"], "'hf:gpt2' has a config of its own, which --vocab would not change"),
        (["hf:gpt2", "--params", "7b"], "--params is for presets"),
    ],
)
@pytest.mark.parametrize("command", ["measure", "predict"])
def test_what_a_model_would_not_look_at_is_refused(call, capsys, command, arguments, said):
    assert call(command, *arguments) == 2
    assert said in capsys.readouterr().err


def test_a_setup_may_be_compared_too(call, runner):
    assert call("compare", "--models", "setup:a.py:f,setup:b.py:f") == 0
    assert [case.model for case in runner.made[0].cases] == ["setup:a.py:f", "setup:b.py:f"]


@pytest.fixture
def transformers():
    pytest.importorskip("transformers")


@pytest.mark.usefixtures("transformers")
def test_a_type_of_model_has_its_default_config_and_its_vocabulary(predicted):
    record, shown = predicted("hf:gpt2", "--seq", "64")
    assert record["parameters"] == 124_439_808
    assert record["config"] == {}  # not the vocabulary of 50,000 that --vocab has for others
    assert "vocab 50,000" not in shown


@pytest.mark.usefixtures("transformers")
def test_a_folder_with_a_config_is_a_model(predicted, tmp_path):
    (tmp_path / "small").mkdir()
    sizes = {"n_layer": 1, "n_embd": 64, "n_head": 2, "vocab_size": 300, "n_positions": 32}
    (tmp_path / "small" / "config.json").write_text(json.dumps({"model_type": "gpt2", **sizes}))
    record, _ = predicted("hf:./small", "--seq", "32")
    assert record["parameters"] == 300 * 64 + 32 * 64 + (12 * 64 * 64 + 13 * 64) + 2 * 64


@pytest.mark.usefixtures("transformers")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hf:openai-community/gpt2", "no folder with a config.json"),  # as on the hub, which is never asked
        ("hf:gtp2", "gpt2"),
        ("hf:gpt2", "'hf:gpt2' has 1,024 positions, and --seq is 2,048: give --seq 1024 or less"),
        ("hf:vit", "'hf:vit' is of type vit, which is no causal language model: use --setup"),
        ("hf:broken", "config.json' is no config of transformers"),
    ],
)
def test_what_transformers_cannot_build_is_told_in_one_line(muse_bench, tmp_path, name, said):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    assert said in refused(muse_bench("predict", name))


def test_without_transformers_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"'hf:gpt2' needs transformers: pip install 'muse-bench\[transformers\]'"):
        build_hugging_face("hf:gpt2", seq=8)
