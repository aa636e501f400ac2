"""A workload's step does what its mode says, whatever the model and however its batch is cut."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn

from muse_bench.config import Case, Sizes
from muse_bench.errors import UsageError
from muse_bench.layers.quantised import Int8Linear
from muse_bench.models.language_model import LanguageModel
from muse_bench.models.presets import PRESETS
from muse_bench.predict.gpus import find_gpu
from muse_bench.predict.trace import trace_case
from muse_bench.stored import Int8Parameter
from muse_bench.workload import build_workload

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
VOCAB, BATCH, SEQ, NEW = 61, 3, 11, 4
SIZES = Sizes(vocab_size=VOCAB, d_model=32, n_layers=2, n_heads=4, seq_len=16)

FACTORIES = """
import types
import torch
from torch import nn

class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(61, 8)
        self.head = nn.Linear(8, 61)

    def forward(self, ids):
        return self.head(self.table(ids))

class Wrapped(Plain):
    def forward(self, ids):
        return types.SimpleNamespace(logits=super().forward(ids), cache=None)

def dtype_seen():
    model = Plain()
    model.seen = torch.ones(1).dtype
    return model

def broken():
    raise RuntimeError("no weights")
"""


def case(name="baseline", mode="train", **changes):
    """The preset under the mode, in float32."""
    config = PRESETS[name].configure(SIZES)
    parts = {key: changes.pop(key) for key in list(changes) if key in config.__dataclass_fields__}
    update = PRESETS[name].update if mode == "train" else "after"
    defaults = {"batch": BATCH, "seq": SEQ, "vocab_size": VOCAB, "new_tokens": NEW, "update": update}
    return Case(model=name, config=dataclasses.replace(config, **parts), mode=mode, **{**defaults, **changes})


def build(*args, **changes):
    return build_workload(case(*args, **changes), CPU)


def modes_of_presets():
    return [
        (name, mode)
        for name in PRESETS
        for mode in ("train", "forward-backward", "inference", "decode")
        if (name, mode) != ("encoder", "decode")
    ]


@pytest.fixture
def factories(tmp_path):
    path = tmp_path / "factories.py"
    path.write_text(FACTORIES)
    return path


def values(work):
    return {name: value.clone() for name, value in work.model.state_dict().items()}


def gradients(work):
    """What the step leaves, or what the optimizer is given, in float64."""
    work.model.double()
    found = {}

    def keep(*_):
        for name, parameter in work.model.named_parameters():
            found[name] = parameter.grad.clone()

    if work.optimizer is not None:
        work.optimizer.register_step_pre_hook(keep)
        work.step()
    else:
        work.step()
        keep()
    return found


@pytest.mark.parametrize(("name", "mode"), modes_of_presets())
def test_every_model_takes_two_steps_in_every_mode(name, mode):
    """Training moves every parameter, the other modes none; only the reports' protocol keeps gradients."""
    preset = PRESETS[name]
    work = build(name, mode, optimizer=preset.optimizer, micro_batch=preset.micro_batch)
    before = values(work)
    work.step()
    work.step()
    after = values(work)
    for parameter_name, parameter in work.model.named_parameters():
        stored_name = parameter_name
        if isinstance(parameter, Int8Parameter):
            stored_name = parameter_name.removesuffix("weight") + "steps"
        assert after[stored_name].isfinite().all(), parameter_name
        assert torch.equal(after[stored_name], before[stored_name]) == (mode != "train"), parameter_name
        gradient = work.model.gradients()[parameter_name] if name != "encoder" else parameter.grad
        assert (gradient is not None) == (mode == "forward-backward"), parameter_name
        assert gradient is None or gradient.isfinite().all(), parameter_name
    assert work.model.training == (mode in ("train", "forward-backward"))
    assert (work.optimizer is not None) == (mode == "train")


@pytest.mark.parametrize(("name", "mode"), [(name, mode) for name, mode in modes_of_presets() if mode != "decode"])
def test_every_model_runs_in_the_dtype_of_its_preset(name, mode):
    """A float32 constant in the way of a float16 product fails on any device."""
    preset = PRESETS[name]
    work = build(name, mode, dtype=preset.dtype, optimizer=preset.optimizer)
    work.step()
    wanted = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[preset.dtype]
    assert {parameter.dtype for parameter in work.model.parameters()} == {wanted}


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 8])
@pytest.mark.parametrize("mode", ["train", "forward-backward"])
@pytest.mark.parametrize(("name", "changes"), [("baseline", {}), ("extreme", {}), ("ultra", {"gate_l1": 0.5})], ids=str)
def test_micro_batches_give_the_gradients_of_the_whole(name, changes, mode, micro_batch):
    """Training averages over all rows: of 3 rows cut into 2 and 1, the last must not weigh double."""
    whole = gradients(build(name, mode, **changes))
    cut = gradients(build(name, mode, micro_batch=micro_batch, **changes))
    torch.testing.assert_close(cut, whole, rtol=1e-9, atol=1e-12)


def test_the_loss_is_the_mean_over_the_whole_batch():
    """The gradient that the optimizer sees is that of plain cross-entropy over all rows at once."""
    found = gradients(build("baseline", micro_batch=2))
    again = build("baseline")
    model = again.model.double()
    logits = model(again.x)
    nn.functional.cross_entropy(logits.flatten(0, 1), again.targets.flatten()).backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_the_reports_protocol_sums_the_logits_and_adds_up_its_gradients():
    """Two steps leave twice the gradient of one: nothing zeroes them in between."""
    work = build("baseline", "forward-backward")
    once = gradients(work)
    work.step()
    for name, parameter in work.model.named_parameters():
        torch.testing.assert_close(parameter.grad, 2 * once[name])
    again = build("baseline", "forward-backward")
    again.model.double()(again.x).sum().backward()
    expected = {name: parameter.grad for name, parameter in again.model.named_parameters()}
    torch.testing.assert_close(once, expected, rtol=1e-9, atol=1e-12)
    assert work.targets is None


@pytest.mark.parametrize("mode", ["inference", "decode"])
@pytest.mark.parametrize("name", ["baseline", "tuned", "extreme"])
def test_inference_records_no_graph(name, mode):
    saved = []
    work = build(name, mode)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        work.step()
    assert saved == []


@pytest.mark.parametrize(("logits", "positions"), [("all", SEQ), ("last", 1)])
@pytest.mark.parametrize("micro_batch", [None, 2])
def test_inference_asks_for_the_logits_that_were_asked_for(logits, positions, micro_batch):
    work = build("baseline", "inference", logits=logits, micro_batch=micro_batch)
    shapes = []
    work.model.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape)))
    work.step()
    rows = [BATCH] if micro_batch is None else [2, 1]
    assert shapes == [(count, positions, VOCAB) for count in rows]


@pytest.mark.parametrize("changes", [{}, {"prefill_chunk": 4}, {"prefill_chunk": 1}], ids=str)
@pytest.mark.parametrize("name", [name for name in PRESETS if name != "encoder"])
def test_decoding_is_greedy_generation(name, changes, monkeypatch):
    """Each new token is the argmax of the logits of everything before it, computed without any state."""
    work = build(name, "decode", **changes)
    work.model.double()
    given = []
    prompt, step = LanguageModel.read_prompt, LanguageModel.decode_step

    def keep_new(self, ids, states, start):
        if start:
            given.append(ids)
        return step(self, ids, states, start)

    monkeypatch.setattr(
        LanguageModel, "read_prompt", lambda self, ids, *rest: given.append(ids) or prompt(self, ids, *rest)
    )
    monkeypatch.setattr(LanguageModel, "decode_step", keep_new)
    work.step()
    tokens = torch.cat(given, dim=1)
    assert [ids.shape[1] for ids in given] == [SEQ] + [1] * (NEW - 1)
    assert torch.equal(tokens[:, :SEQ], work.x)
    with torch.no_grad():
        for length in range(SEQ, SEQ + NEW - 1):
            expected = work.model(tokens[:, :length], last_only=True).argmax(-1)
            assert torch.equal(tokens[:, length : length + 1], expected)


def test_the_state_of_a_sequence_is_known_once_it_has_decoded():
    """Keys and values of prompt and new tokens in float32, for one sequence of the batch, in both blocks."""
    work = build("baseline", "decode")
    assert work.state_per_sequence_bytes is None
    work.step()
    assert work.state_per_sequence_bytes == 2 * 2 * SIZES.d_model * (SEQ + NEW) * 4


def test_reading_the_prompt_generates_nothing_after_it(monkeypatch):
    work = build("ultra", "decode")
    starts = []
    step = LanguageModel.decode_step
    monkeypatch.setattr(LanguageModel, "decode_step", lambda self, *args: starts.append(args[2]) or step(self, *args))
    work.read_prompt()
    assert starts == []


def test_tokens_are_counted_as_read_or_as_generated():
    assert build(mode="train").tokens_per_step == BATCH * SEQ
    assert build(mode="inference").tokens_per_step == BATCH * SEQ
    assert build(mode="decode").tokens_per_step == BATCH * NEW


def test_the_batch_is_random_words_of_the_vocabulary():
    work = build(batch=40)
    for rows in (work.x, work.targets):
        assert rows.shape == (40, SEQ)
        assert rows.dtype == torch.int64
        assert rows.min() == 0
        assert rows.max() == VOCAB - 1
    assert not torch.equal(work.x, work.targets)


def test_a_seed_gives_the_same_run_and_another_seed_another():
    def run(seed):
        work = build("encoder", seed=seed)  # the one with dropout
        work.step()
        return {**values(work), "ids": work.x, "targets": work.targets}

    first, again, other = run(1), run(1), run(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["ids"], other["ids"])
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])


@pytest.mark.parametrize("name", ["adamw", "adamw-fused", "sgd", "none"])
def test_every_optimizer_is_the_one_that_was_named(name):
    """With PyTorch's defaults; without one, a step changes nothing and leaves no gradients."""
    work = build("ultra", optimizer=name)
    before = values(work)
    work.step()
    assert all(parameter.grad is None for parameter in work.model.parameters())
    if name == "none":
        assert work.optimizer is None
        assert all(torch.equal(parameter, before[key]) for key, parameter in work.model.named_parameters())
        return
    assert type(work.optimizer) is (torch.optim.SGD if name == "sgd" else torch.optim.AdamW)
    assert work.optimizer.defaults.get("fused") is (True if name == "adamw-fused" else None)
    assert work.optimizer.defaults["lr"] == 1e-3
    assert not all(torch.equal(parameter, before[key]) for key, parameter in work.model.named_parameters())


def test_int8_weights_are_for_inference_alone():
    for mode, quantised in (("train", False), ("forward-backward", False), ("inference", True), ("decode", True)):
        model = build("extreme", mode).model
        assert any(isinstance(module, Int8Linear) for module in model.modules()) == quantised
        assert any(type(module) is nn.Linear for module in model.modules()) != quantised


def test_a_shared_parameter_is_counted_once_and_an_int8_weight_not_at_all():
    assert build("baseline", head="tied").parameters == build("baseline").parameters - VOCAB * 32
    trained, quantised = build("extreme"), build("extreme", "inference")
    linears = [module for module in trained.model.modules() if type(module) is nn.Linear]
    assert quantised.parameters == trained.parameters - sum(linear.weight.numel() for linear in linears)


# --- models from a user's own code


def external(factories, factory, mode="train", **changes):
    values = {"batch": BATCH, "seq": SEQ, "vocab_size": VOCAB, **changes}
    return build_workload(Case(model=f"{factories}:{factory}", config=None, mode=mode, **values), CPU)


@pytest.mark.parametrize("mode", ["train", "forward-backward", "inference"])
@pytest.mark.parametrize("factory", ["Plain", "Wrapped"])
def test_a_model_of_the_users_own_runs(factories, factory, mode):
    """Whether it returns the logits, or an object that has them as Hugging Face's models do."""
    work = external(factories, factory, mode, micro_batch=2)
    before = values(work)
    work.step()
    work.step()
    assert work.parameters == 61 * 8 + 8 * 61 + 61
    moved = [not torch.equal(parameter, before[name]) for name, parameter in work.model.named_parameters()]
    assert moved == [mode == "train"] * 3


def test_a_model_of_the_users_own_gets_the_loss_of_ours(factories):
    """Mean cross-entropy over all rows of a batch that is cut unevenly."""
    found = gradients(external(factories, "Wrapped", micro_batch=2))
    again = external(factories, "Plain")
    model = again.model.double()
    nn.functional.cross_entropy(model(again.x).flatten(0, 1), again.targets.flatten()).backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_a_factory_runs_under_the_dtype_of_its_case_and_no_other_code_does(factories):
    assert external(factories, "dtype_seen", dtype="bf16").model.seen == torch.bfloat16
    assert torch.get_default_dtype() == torch.float32
    with pytest.raises(UsageError, match="no weights"):
        external(factories, "broken", dtype="fp16")
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("name", ["muse", "baseline"])
def test_an_update_in_backward_is_the_update_after_it(name: str) -> None:
    """A parameter that is left out, moved twice, or moved before all of its gradient is there."""
    after = build(name, update="after", optimizer="sgd", weights="device")
    during = build(name, update="in-backward", optimizer="sgd")
    for work in (after, during):
        for _ in range(2):
            work.step()
        assert not any(parameter.grad is not None for parameter in work.model.parameters())
    torch.testing.assert_close(during.model.state_dict(), after.model.state_dict())


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({}, BATCH),
        ({"weights": "device"}, BATCH),
        ({"micro_batch": 2, "update": "after", "weights": "device"}, 2),
        ({"mode": "forward-backward"}, BATCH),
    ],
    ids=str,
)
def test_a_prediction_counts_the_host_memory_that_a_run_takes(changes, rows):
    """Of each of two halves of two blocks the input, of the larger of unequal micro-batches."""
    ours = case("muse", **changes)
    work = build_workload(ours, CPU)
    work.step()
    _, traced = trace_case(ours, find_gpu("h200"))
    assert work.host_bytes()["checkpoints"] == 2 * 2 * rows * SEQ * SIZES.d_model * 4
    assert ("weights" in work.host_bytes()) == (changes.get("weights") != "device")
    assert traced.host_bytes() == work.host_bytes()


@pytest.mark.parametrize(("name", "mode"), [("baseline", "train"), ("muse", "inference"), ("extreme", "decode")])
def test_what_stays_on_the_device_takes_no_host_memory(name, mode):
    work = build(name, mode, weights="device")
    work.step()
    assert work.host_bytes() == {}


def test_what_a_model_of_the_users_own_keeps_is_not_known(factories):
    work = external(factories, "Plain")
    work.step()
    assert work.host_bytes() is None


@pytest.mark.parametrize("changes", [{}, {"weight_format": "int8"}])
def test_an_update_in_backward_gives_the_optimizer_only_what_has_a_gradient(changes):
    """Else each of many updates would look at all parameters, which takes time that grows with their square."""
    work = build_workload(case("muse", optimizer="apollo-mini", update="in-backward", **changes), CPU)
    everything = [one for group in work.optimizer.param_groups for one in group["params"]]
    seen = []
    work.optimizer.register_step_pre_hook(lambda one, *_: seen.append(list(one.param_groups[0]["params"])))
    work.step()
    assert all(parameter.grad is not None or parameter in work.optimizer.state for given in seen for parameter in given)
    assert sum(map(len, seen)) == len(everything) == len(set(itertools.chain.from_iterable(seen)))
    assert work.optimizer.param_groups[0]["params"] == everything


def test_micro_batches_do_not_go_with_an_update_in_backward() -> None:
    with pytest.raises(UsageError, match="leave one out"):
        case("muse", update="in-backward", micro_batch=1)
