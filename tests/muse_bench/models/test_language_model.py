"""The language model, whatever its parts: causal, learns, and computes the same by every path that it has."""

import copy
import dataclasses
import functools
import math

import pytest
import torch
from torch import nn

from muse_bench.config import Sizes
from muse_bench.layers.head import DenseHead
from muse_bench.layers.mixer import SemiseparableMixer
from muse_bench.layers.quantised import Int8Linear, TrainedInt8Linear, quantise_linears
from muse_bench.models.language_model import LanguageModel
from muse_bench.models.presets import PRESETS
from muse_bench.stored import Int8Parameter

pytestmark = pytest.mark.usefixtures("one_thread")

VOCAB, SEQ = 61, 13  # of the fixture ids
SIZES = Sizes(vocab_size=VOCAB, d_model=32, n_layers=2, n_heads=4, seq_len=16)
CONFIGS = {name: preset.configure(SIZES) for name, preset in PRESETS.items()}
CAUSAL = [name for name, config in CONFIGS.items() if config.causal]
SEMISEPARABLE = [name for name, config in CONFIGS.items() if config.mixer == "ar-ssm"]
# In float64 what differs by rounding alone differs by far less than this.
assert_same = functools.partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)


def configure(name, **changes):
    return dataclasses.replace(CONFIGS[name], **changes)


def build(config, seed=0):
    """A model in float64 whose every part has a say: as initialised, mixers and gates hardly show in the logits."""
    torch.manual_seed(seed)
    model = LanguageModel(config).double()
    with model.all_on_device():
        for linear in model.modules():
            if isinstance(linear, TrainedInt8Linear):
                linear.initialise(0.3)
        for parameter in (one for one in model.parameters() if not isinstance(one, Int8Parameter)):
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.3)
            else:
                nn.init.uniform_(parameter, 0.2, 1.0)
    return model


@pytest.fixture
def targets():
    return torch.randint(VOCAB, (2, SEQ), generator=torch.Generator().manual_seed(2))


def gradients(model, ids, targets):
    """The loss, and every parameter's gradient by name."""
    torch.manual_seed(5)
    loss = model.loss(ids, targets)
    loss.backward()
    found = model.gradients()
    assert all(gradient is not None for gradient in found.values())
    return loss.detach(), found


# --- causality


# Every causal preset, and every option that no preset takes.
VARIANTS = [
    *((name, {}) for name in CAUSAL),
    ("ultra", {"decay": True}),
    ("ultra", {"gate": "straight-through"}),
    ("ultra", {"gate": "gumbel"}),
    ("ultra", {"gate_l1": 0.1, "decay": True}),
    ("baseline", {"embedding": "factorised", "embedding_rank": 5, "head": "tied"}),
    ("muse", {"n_heads": 4, "query_heads": 2}),
    ("muse", {"attention_every": 2, "attention_window": 4}),
]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("name", "changes"), VARIANTS, ids=str)
def test_a_token_never_changes_the_logits_before_it_and_does_change_those_after(ids, name, changes, training):
    """Not a bit: a convolution padded on both sides, or attention without its mask, reads the future."""
    model = build(configure(name, **changes)).train(training)

    def logits(tokens):
        torch.manual_seed(3)  # of the gates' noise
        return model(tokens)

    before = logits(ids)
    assert before.shape == (2, SEQ, VOCAB)
    for t in range(SEQ):
        other = ids.clone()
        other[:, t] = (ids[:, t] + 1) % VOCAB
        after = logits(other)
        assert torch.equal(after[:, :t], before[:, :t]), t
        assert (after[:, t:] != before[:, t:]).any(-1).all(), t


def test_the_reports_baseline_reads_the_future(ids):
    """As the reports ran it: no mask. It is in the table for the comparison alone."""
    model = build(CONFIGS["encoder"]).eval()
    other = ids.clone()
    other[:, -1] = (ids[:, -1] + 1) % VOCAB
    assert (model(other)[:, 0] != model(ids)[:, 0]).any()
    assert not CONFIGS["encoder"].causal


def test_the_order_of_the_past_matters(ids):
    """Without positions, attention would be a bag of words; the recurrence has its convolution."""
    for name in CAUSAL:
        model = build(CONFIGS[name]).eval()
        swapped = ids.clone()
        swapped[:, [0, 1]] = ids[:, [1, 0]]
        assert (ids[:, 0] != ids[:, 1]).all()
        assert (model(swapped)[:, -1] != model(ids)[:, -1]).any(), name


@pytest.mark.parametrize("name", CAUSAL)
def test_a_place_in_the_text_matters(name):
    """One word over and over: only its position, or how much came before it, tells the places apart."""
    model = build(CONFIGS[name]).eval()
    logits = model(torch.full((1, SEQ), 7))
    assert torch.unique(logits[0], dim=0).shape[0] == SEQ


def test_rows_of_a_batch_do_not_see_each_other(ids):
    for name, config in CONFIGS.items():
        model = build(config).eval()
        assert_same(model(ids)[1:], model(ids[1:]), msg=name)


# --- learning


def train(model, ids, targets, steps, lr):
    """AdamW in float32; the loss of the first step and of the last."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        loss = model.loss(ids, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses[0], losses[-1]


@pytest.mark.parametrize("name", PRESETS)
def test_the_loss_falls_on_a_repeating_text(name):
    """From about log 61 to less than half of log 8, which the frequencies of its 8 words alone would give."""
    torch.manual_seed(0)
    text = torch.randperm(VOCAB)[:8].repeat(3)
    model = LanguageModel(dataclasses.replace(CONFIGS[name], weights="device", weight_format="native"))
    first, last = train(model, text[None, :16], text[None, 1:17], steps=40, lr=1e-2)
    assert first == pytest.approx(math.log(VOCAB), rel=0.1)
    assert last < math.log(8) / 2


@pytest.mark.parametrize("decay", [False, True])
@pytest.mark.parametrize("name", SEMISEPARABLE)
def test_the_recurrence_learns_what_the_last_token_does_not_tell(name, decay):
    """a b a c a d: what follows an a depends on what came before it. A mixer that mixes nothing stays at half of
    log 3. At least the first a of half of the rows cannot be told."""
    text = torch.tensor([7, 11, 7, 30, 7, 60] * 4)
    rows = torch.stack([text[start : start + 13] for start in range(6)])
    torch.manual_seed(0)
    model = LanguageModel(configure(name, decay=decay))
    _, last = train(model, rows[:, :-1], rows[:, 1:], steps=60, lr=2e-2)
    assert last < math.log(3) / 4
    if decay:
        logit = model.blocks[0].mixer.decay_logit
        assert not torch.equal(logit, torch.linspace(2.0, 6.0, len(logit)))


# --- the loss and its paths


FUSED = [(name, 0.0) for name, config in CONFIGS.items() if config.loss == "fused"]


@pytest.mark.parametrize(("name", "gate_l1"), [*FUSED, ("ultra", 0.3), ("extreme", 0.3)])
def test_the_fused_loss_is_the_plain_loss(ids, targets, name, gate_l1):
    """Value and every gradient; the plain one holds all the logits."""
    fused = build(configure(name, gate_l1=gate_l1))
    plain = build(configure(name, gate_l1=gate_l1, loss="plain"))
    plain.load_state_dict(fused.state_dict())
    assert_same(gradients(fused, ids, targets), gradients(plain, ids, targets))


@pytest.mark.parametrize(
    "changes",
    [
        {"head": "dense", "head_bias": True},
        {"head": "low-rank", "head_rank": 5, "head_bias": False},
        {"head": "tied", "embedding": "factorised", "embedding_rank": 5},
    ],
    ids=str,
)
def test_every_head_has_both_losses(ids, targets, changes):
    fused = build(configure("baseline", loss="fused", **changes))
    plain = build(configure("baseline", loss="plain", **changes))
    assert_same(gradients(fused, ids, targets), gradients(plain, ids, targets))


def test_the_loss_is_the_mean_cross_entropy_of_the_logits(ids, targets):
    """Over all tokens, in float64 where the model is: a detour by float32 costs half of the digits."""
    for name, config in CONFIGS.items():
        model = build(config).eval()
        chosen = model(ids).log_softmax(-1).gather(-1, targets[..., None])
        assert_same(model.loss(ids, targets), -chosen.mean(), msg=name)


@pytest.mark.parametrize(
    "changes",
    [{}, {"gate_l1": 0.2}, {"gate": "gumbel", "gate_l1": 0.2}, {"decay": True}, {"loss": "plain"}],
    ids=str,
)
@pytest.mark.parametrize("checkpointing", ["blocks", "everything"])
def test_checkpointing_changes_no_gradient_of_the_recurrence(ids, targets, checkpointing, changes):
    """A recomputation that draws other noise for the gates would."""
    kept = build(configure("ultra", checkpointing="none", **changes))
    again = build(configure("ultra", checkpointing=checkpointing, **changes))
    assert_same(gradients(again, ids, targets), gradients(kept, ids, targets), rtol=0, atol=0)


@pytest.mark.parametrize(
    "changes", [{"checkpoint_parts": 1}, {"checkpoint_parts": 2}, {"offload": False}, {"weights": "device"}], ids=str
)
def test_sublayers_that_run_again_change_no_gradient(ids, targets, changes):
    """Rows of a batch that are left out or counted twice, an input that comes back from another place."""
    kept = {"checkpointing": "none", "offload": False, "weights": "device"}
    plain, again = (build(configure("muse", **each)) for each in (kept, changes))
    expected, found = (gradients(model, ids, targets) for model in (plain, again))
    assert_same(found[0], expected[0])
    for name, gradient in expected[1].items():
        assert_same(found[1][name], gradient, msg=name)


def test_a_second_forward_before_a_backward_is_refused(ids, targets):
    """Its checkpoints would take the places of the first one's, whose gradients would be silently wrong."""
    model = build(configure("muse"))
    first = model.loss(ids, targets)
    model.loss(ids.flip(0), targets)
    with pytest.raises(RuntimeError, match="ran forward again"):
        first.backward()


def test_a_head_sends_no_gradient_through_the_embedding(ids, targets):
    """The rows that a hybrid embedding borrows get no second share: the first is used as soon as it is there."""
    model = build(configure("muse", checkpointing="none", offload=False, weights="device"))
    _, found = gradients(model, ids, targets)
    hidden, _ = model.hidden(ids)
    alone = torch.autograd.grad(model.table.loss(hidden.detach(), targets), model.head.up.weight)[0]
    assert_same(found["head.up.weight"], alone)


@pytest.mark.parametrize("name", ["baseline", "encoder"])
def test_checkpointing_changes_no_gradient_of_attention_with_dropout(ids, targets, name):
    kept = build(configure(name, checkpointing="none", dropout=0.3))
    again = build(configure(name, checkpointing="blocks", dropout=0.3))
    assert_same(gradients(again, ids, targets), gradients(kept, ids, targets), rtol=0, atol=0)


@pytest.mark.parametrize(("checkpointing", "forwards"), [("none", 1), ("blocks", 2), ("everything", 2)])
def test_checkpointing_runs_each_block_again_in_training_alone(ids, targets, checkpointing, forwards):
    model = build(configure("ultra", checkpointing=checkpointing))
    calls = []
    for block in model.blocks:
        block.mixer_norm.register_forward_pre_hook(lambda module, _: calls.append(module))
    for training, expected in ((True, forwards), (False, 1)):
        calls.clear()
        model.train(training).loss(ids, targets).backward()
        # One LayerNorm serves both halves of a block of this preset.
        assert len(calls) == 2 * expected * len(model.blocks)


@pytest.mark.parametrize(("checkpointing", "forwards"), [("none", 1), ("blocks", 1), ("everything", 2)])
def test_the_head_runs_again_when_everything_is_checkpointed(ids, checkpointing, forwards):
    """Where its logits are asked for; what its first factor gives is then not kept for backward."""
    model = build(configure("ultra", checkpointing=checkpointing))
    calls = []
    model.head.down.register_forward_pre_hook(lambda module, _: calls.append(module))
    model(ids).sum().backward()
    assert len(calls) == forwards


@pytest.mark.parametrize("name", PRESETS)
def test_the_last_logits_alone_are_those_of_the_last_position(ids, name):
    model = build(CONFIGS[name]).eval()
    last = model(ids, last_only=True)
    assert last.shape == (2, 1, VOCAB)
    assert_same(last, model(ids)[:, -1:])


@pytest.mark.parametrize("name", ["muse", "baseline", "ultra"])
@pytest.mark.parametrize("chunk", [1, 4, 13, 20])
def test_a_prompt_in_chunks_ends_in_the_same_logits(ids, name, chunk):
    model = build(configure(name, prefill_chunk=chunk)).eval()
    with torch.no_grad():
        found, expected = model(ids, last_only=True), model(ids)[:, -1:]
    assert_same(found, expected)


# --- decoding


DECODERS = {
    "attention": ("baseline", {}),
    "attention without positions": ("baseline", {"positions": "none", "head": "tied"}),
    "running sum": ("extreme", {}),
    "decay": ("extreme", {"decay": True}),
    "low-rank head": ("ultra", {}),
    "matrix state": ("muse", {"attention_every": None}),
    "windows": ("muse", {"attention_every": 2, "attention_window": 4}),
    "a window longer than the text": ("muse", {"attention_every": 1}),
    "matrix state, heads in groups": ("muse", {"n_heads": 4, "query_heads": 2}),
}


@pytest.mark.parametrize("int8", [False, True], ids=["float", "int8"])
@pytest.mark.parametrize(("name", "changes"), DECODERS.values(), ids=DECODERS)
@pytest.mark.parametrize("parts", [[5] + [1] * 8, [1] * 13, [12, 1], [13], [4, 3, 2, 4]], ids=str)
def test_decoding_step_by_step_gives_the_logits_of_the_whole(ids, name, changes, int8, parts):
    """However the tokens are cut into steps. A cache of the weights' int8 would keep no fraction of a key."""
    model = build(configure(name, **changes, **({"weights": "device"} if int8 else {}))).eval()
    if int8:
        quantise_linears(model)
    states = model.new_states(2, SEQ)
    with torch.no_grad():
        whole, start = model(ids), 0
        for length in parts:
            step = model.decode_step(ids[:, start : start + length], states, start)
            start += length
            assert step.shape == (2, 1, VOCAB)
            assert_same(step, whole[:, start - 1 : start])


def test_the_state_of_the_recurrence_does_not_grow():
    model = build(CONFIGS["ultra"]).eval()
    states = model.new_states(2, 1 << 40)
    for start in range(20):
        model.decode_step(torch.zeros(2, 1, dtype=torch.int64), states, start)
    assert {tuple(state.total.shape) for state in states} == {(2, CONFIGS["ultra"].mixer_rank)}
    assert {tuple(state.before.shape) for state in states} == {(2, 2, 32)}


def test_two_sequences_do_not_share_a_state(ids):
    model = build(CONFIGS["extreme"]).eval()
    first, second = model.new_states(2, SEQ), model.new_states(2, SEQ)
    model.decode_step(ids[:, :5], first, 0)
    assert_same(model.decode_step(ids, second, 0), model(ids, last_only=True))


def test_no_token_goes_past_the_positions():
    """An empty slice of positions would broadcast a single new token away, to logits of nothing."""
    model = build(CONFIGS["baseline"]).eval()
    with pytest.raises(IndexError, match="17 tokens"):
        model(torch.zeros(1, 17, dtype=torch.int64))
    with pytest.raises(IndexError, match="17 tokens"):
        model.decode_step(torch.zeros(1, 1, dtype=torch.int64), model.new_states(1, 32), 16)


def test_no_token_goes_past_the_cache():
    """Likewise an assignment to an empty slice of the cache would drop the token's key and value."""
    model = build(configure("baseline", positions="none")).eval()
    states = model.new_states(1, 4)
    model.decode_step(torch.zeros(1, 4, dtype=torch.int64), states, 0)
    with pytest.raises(IndexError, match="5 tokens"):
        model.decode_step(torch.zeros(1, 1, dtype=torch.int64), states, 4)


# --- the tied head


@pytest.mark.parametrize(
    "embedding",
    [
        {},
        {"embedding": "factorised", "embedding_rank": 5},
        {"embedding": "htt", "embedding_rank": 3},
    ],
    ids=str,
)
def test_a_tied_head_is_the_embedding_itself(ids, targets, embedding):
    """Its parameters are there once, and get the gradients of both uses."""
    model = build(configure("baseline", head="tied", **embedding))
    assert model.head is None
    assert model.table is model.embedding
    names = [name for name, _ in model.named_parameters()]
    assert len(names) == len(set(names))
    assert not any(name.startswith("head") for name in names)
    _, both = gradients(model, ids, targets)

    model.zero_grad()
    hidden, _ = model.hidden(ids)
    table = copy.deepcopy(model.embedding)
    nn.functional.cross_entropy(table.logits(hidden).flatten(0, 1), targets.flatten()).backward()
    for name, parameter in table.named_parameters():
        assert_same(both[f"embedding.{name}"], model.embedding.get_parameter(name).grad + parameter.grad)


# --- gates


def mixer_and_input(gate, rank=6):
    torch.manual_seed(0)
    mixer = SemiseparableMixer(32, rank, gate=gate)
    for linear in (mixer.gate[0], mixer.gate[2]):
        nn.init.normal_(linear.weight, std=0.3)
    return mixer, torch.randn(2, SEQ, 32)


def test_soft_gates_lie_between_0_and_1():
    mixer, x = mixer_and_input("soft")
    for training in (True, False):
        gates = mixer.train(training).gates(x)
        assert gates.shape == (2, SEQ, 6)
        assert ((gates > 0) & (gates < 1)).all()
        assert torch.equal(gates, mixer.gates(x))
        assert gates.std() > 0.1  # they do depend on the token


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_straight_through_gates_are_0_or_1_with_the_gradients_of_soft_ones(dtype):
    """Exactly: 1 + s - s is not 1 in floating point."""
    hard, x = mixer_and_input("straight-through")
    soft, _ = mixer_and_input("soft")
    hard, soft, x = hard.to(dtype), soft.to(dtype), x.to(dtype)
    gates = hard.gates(x)
    assert set(gates.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(gates, (soft.gates(x) > 0.5).to(dtype))
    weights = torch.randn_like(gates)
    (gates * weights).sum().backward()
    (soft.gates(x) * weights).sum().backward()
    for theirs, ours in zip(soft.gate.parameters(), hard.gate.parameters(), strict=True):
        assert theirs.grad.abs().max() > 0
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gumbel_gates_are_drawn_anew_in_training_alone(dtype):
    mixer, x = mixer_and_input("gumbel")
    mixer, x = mixer.to(dtype), x.to(dtype)
    first, second = mixer.gates(x), mixer.gates(x)
    assert not torch.equal(first, second)
    for gates in (first, second):
        assert ((gates >= 0) & (gates <= 1)).all()  # and so none is nan
    mixer.eval()
    assert torch.equal(mixer.gates(x), mixer.gates(x))
    assert torch.equal(mixer.gates(x), torch.sigmoid(mixer.gate(x)))


def test_gumbel_gates_are_open_as_often_as_soft_ones_say():
    """The point of binary concrete: a sample is above one half with the soft gate's probability."""
    mixer, _ = mixer_and_input("gumbel", rank=4)
    nn.init.zeros_(mixer.gate[2].weight)
    with torch.no_grad():
        mixer.gate[2].bias.copy_(torch.tensor([-2.0, -0.5, 0.0, 1.5]))
    samples = 20_000
    opened = (mixer.gates(torch.zeros(1, samples, 32)) > 0.5).double().mean((0, 1))
    probability = torch.sigmoid(mixer.gate[2].bias.detach().double())
    five_sigma = 5 * (probability * (1 - probability) / samples).sqrt()
    assert ((opened - probability).abs() < five_sigma).all()


def test_the_penalty_is_the_mean_gate_of_every_block(ids, targets):
    """Added once a block, weighted, whether the block is checkpointed or not."""
    for checkpointing in ("none", "everything"):
        free = build(configure("ultra", checkpointing=checkpointing))
        penalised = build(configure("ultra", checkpointing=checkpointing, gate_l1=0.5))
        scores = []
        for block in free.blocks:
            block.mixer.gate.register_forward_hook(lambda _, __, output, kept=scores: kept.append(output))
        with torch.no_grad():
            difference = penalised.loss(ids, targets) - free.loss(ids, targets)
        assert len(scores) == 2
        assert_same(difference, 0.5 * sum(torch.sigmoid(one).mean() for one in scores))


def test_the_penalty_is_no_part_of_the_loss_that_is_evaluated(ids, targets):
    plain, penalised = (build(configure("ultra", gate_l1=gate_l1)).eval() for gate_l1 in (0.0, 0.5))
    penalised.load_state_dict(plain.state_dict())
    assert penalised.loss(ids, targets) == plain.loss(ids, targets)


def test_the_penalty_closes_gates(ids, targets):
    """With the opposite sign it would open them."""
    means = []
    for gate_l1 in (1e-9, 1.0):
        torch.manual_seed(0)
        model = LanguageModel(configure("ultra", gate_l1=gate_l1))
        train(model, ids, targets, steps=40, lr=1e-2)
        penalty = model.hidden(ids)[1].item()
        means.append(penalty / gate_l1 / len(model.blocks))
    free, penalised = means
    assert penalised < free / 2
    assert penalised < 0.25  # at first they are half open


def test_the_effective_rank_counts_open_gates():
    mixer, x = mixer_and_input("soft", rank=6)
    nn.init.zeros_(mixer.gate[2].weight)
    with torch.no_grad():
        mixer.gate[2].bias.copy_(torch.tensor([9.0, 1.0, 0.1, -0.1, -1.0, -9.0]))
    assert mixer.effective_rank(x) == 3.0
    mixer.gate = nn.Identity()  # the input is the scores: 6 gates open for one token, 1 for the other
    assert mixer.effective_rank(torch.tensor([[[1.0] * 6, [1.0] + [-1.0] * 5]])) == 3.5


# --- int8


def test_quantised_linears_are_stored_as_int8(ids):
    model = build(CONFIGS["extreme"]).eval()
    linears = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    quantised = quantise_linears(copy.deepcopy(model))
    assert linears
    for name in linears:
        module, linear = quantised.get_submodule(name), model.get_submodule(name)
        assert isinstance(module, Int8Linear)
        assert module.weight.dtype == torch.int8
        assert module.weight.untyped_storage().nbytes() == linear.weight.numel()
        assert module.scale.shape == (linear.out_features,)
        assert module.bias is None or torch.equal(module.bias, linear.bias)
    kept = {name for name, _ in quantised.named_parameters()}
    assert not any(f"{name}.weight" in kept for name in linears)
    assert not torch.equal(quantised(ids), model(ids))


@pytest.mark.parametrize("bias", [True, False])
def test_a_quantised_head_errs_by_half_a_step_a_weight_at_most(bias):
    """|y - y'| <= sum_i |x_i| * scale / 2, for a weight is rounded to the nearest of its row's steps."""
    torch.manual_seed(0)
    head = DenseHead(32, VOCAB, bias=bias).double()
    x = torch.randn(3, 5, 32, dtype=torch.float64)
    exact = head.logits(x)
    quantised = quantise_linears(head)
    bound = x.abs().sum(-1, keepdim=True) * quantised.up.scale / 2
    error = (quantised.logits(x) - exact).abs()
    assert (error <= bound * (1 + 1e-12)).all()
    assert error.max() > 0
    assert quantised.up.scale.max() <= 32**-0.5 / 127  # a weight begins within 32 ** -0.5


# --- what is out of range


@pytest.mark.parametrize("bad", [-1, VOCAB, 1 << 40])
@pytest.mark.parametrize(
    "embedding",
    [{}, {"embedding": "factorised", "embedding_rank": 5}, {"embedding": "htt", "embedding_rank": 3}],
    ids=str,
)
def test_an_id_out_of_range_is_an_error(ids, embedding, bad):
    """The tables of a tensor train have 64 rows for 61 words; the reports' code clamped."""
    model = build(configure("baseline", **embedding))
    ids[1, 4] = bad
    with pytest.raises(IndexError):
        model(ids)


@pytest.mark.parametrize("bad", [-1, VOCAB])
@pytest.mark.parametrize("loss", ["plain", "fused"])
@pytest.mark.parametrize("name", ["tuned", "ultra", "extreme"])
def test_a_target_out_of_range_is_an_error(ids, targets, name, loss, bad):
    targets[0, 0] = bad
    with pytest.raises(IndexError):
        build(configure(name, loss=loss)).loss(ids, targets)


# --- dropout


@pytest.mark.parametrize("name", ["encoder", "baseline"])
def test_dropout_acts_in_training_alone(ids, name):
    model = build(configure(name, dropout=0.4))
    model.train()
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids))
    undisturbed = build(configure(name, dropout=0.0)).train()
    assert_same(undisturbed(ids), model(ids))
