"""On a real GPU: accelerate's copies give the resident results, and the device holds a few weights at a time."""

import dataclasses

import pytest
import torch

from muse_bench.config import Case, Sizes
from muse_bench.models.presets import PRESETS
from muse_bench.workload import Workload, build_workload

pytestmark = pytest.mark.gpu
pytest.importorskip("accelerate")
SEQ, NEW = 96, 4
SIZES = Sizes(vocab_size=1_001, d_model=512, n_layers=12, n_heads=4, seq_len=SEQ + NEW)


def build(name: str, weights: str, mode: str = "inference") -> Workload:
    config = dataclasses.replace(PRESETS[name].configure(SIZES), weights=weights, prefill_chunk=None)
    case = Case(model=name, config=config, mode=mode, dtype="bf16", batch=2, seq=SEQ, vocab_size=1_001, new_tokens=NEW)
    return build_workload(case, torch.device("cuda", torch.cuda.current_device()))


@pytest.mark.parametrize("name", ["baseline", "muse", "tuned"])
def test_logits_and_tokens_are_the_resident_ones_to_the_bit(name: str) -> None:
    ours, theirs = (build(name, weights, "decode") for weights in ("device", "accelerate"))
    with torch.no_grad():
        found, expected = ([work.model(work.x), *_generated(work)] for work in (theirs, ours))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def _generated(work: Workload) -> list[torch.Tensor]:
    model, states = work.model, work.model.new_states(len(work.x), SEQ + NEW)
    tokens = [model.read_prompt(work.x, states).argmax(-1)]
    for start in range(SEQ, SEQ + NEW - 1):
        tokens.append(model.decode_step(tokens[-1], states, start).argmax(-1))
    return tokens


def test_neither_while_it_is_built_nor_in_a_step_is_the_model_on_the_device() -> None:
    build("baseline", "accelerate").step()  # the libraries' workspaces, which stay
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work = build("baseline", "accelerate")
    work.step()
    assert torch.cuda.max_memory_allocated() - before < work.host_bytes()["weights"] / 4


def test_the_copies_are_from_pinned_memory() -> None:
    """From other memory a copy takes several times as long, and the peer would be slower than it is."""
    work = build("baseline", "accelerate")
    values = work.model.norm._hf_hook.weights_map.dataset.values()
    assert len(values) == len(list(work.model.parameters()))
    assert all(value.is_pinned() for value in values)
