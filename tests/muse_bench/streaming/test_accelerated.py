"""Weights that accelerate keeps: the model is the resident one, value for value, and nothing of it stays behind."""

import dataclasses
import sys

import pytest
import torch

from muse_bench.config import Case, Sizes
from muse_bench.errors import HostMemoryShort, UsageError
from muse_bench.models.presets import PRESETS
from muse_bench.models.variants import find_model
from muse_bench.observe import Observer
from muse_bench.predict.gpus import find_gpu
from muse_bench.predict.trace import trace_case
from muse_bench.timeline import Label
from muse_bench.workload import Workload, build_workload

VOCAB, SEQ, NEW = 301, 24, 5
SIZES = Sizes(vocab_size=VOCAB, d_model=32, n_layers=3, n_heads=2, seq_len=SEQ + NEW)
CPU = torch.device("cpu")
# Those without INT8 weights, and parts that no preset has or none has together.
MODELS = (
    *(name for name in PRESETS if name not in ("extreme", "streamed")),
    "muse+embedding=dense+head=dense",
    "baseline+embedding=factorised+embedding_rank=8+head=tied",
    "ultra+decay=true",
)


def case(name: str, weights: str, mode: str = "inference", **changes: object) -> Case:
    config = find_model(name).configure(SIZES)
    heads = 2 if config.mixer == "matrix-ar-ssm" else config.n_heads
    config = dataclasses.replace(config, weights=weights, n_heads=heads, offload=False, prefill_chunk=None)
    sizes = {"batch": 2, "seq": SEQ, "vocab_size": VOCAB, "new_tokens": NEW}
    return Case(model=name, config=config, mode=mode, dtype="bf16", **{**sizes, **changes})


def build(*args: str, **changes: object) -> Workload:
    pytest.importorskip("accelerate")
    return build_workload(case(*args, **changes), CPU)


@torch.no_grad()
def generated(work: Workload) -> torch.Tensor:
    states = work.model.new_states(len(work.x), SEQ + NEW)
    logits = [work.model.read_prompt(work.x, states)]
    for start in range(SEQ, SEQ + NEW - 1):
        logits.append(work.model.decode_step(logits[-1].argmax(-1), states, start))
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_the_resident_ones_to_the_bit(name: str) -> None:
    """A weight that is read where no hook brings it is not there, or is another one."""
    ours, theirs = (build(name, weights) for weights in ("device", "accelerate"))
    with torch.no_grad():
        for last_only in (False, True):
            found, expected = (work.model(work.x, last_only=last_only) for work in (theirs, ours))
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "encoder"])
def test_what_is_generated_is_the_same_to_the_bit(name: str) -> None:
    """States that are made beside weights which are not there."""
    ours, theirs = (build(name, weights, "decode") for weights in ("device", "accelerate"))
    torch.testing.assert_close(generated(theirs), generated(ours), rtol=0, atol=0)


@pytest.mark.parametrize("name", MODELS)
def test_between_steps_no_weight_is_on_the_device_and_all_are_counted_on_the_host(name: str) -> None:
    """A part that was left out would stay resident; one brought for its table alone would never go."""
    work = build(name, "accelerate")
    work.step()
    assert {parameter.device.type for parameter in work.model.parameters()} == {"meta"}
    assert work.host_bytes() == {"weights": sum(parameter.nbytes for parameter in work.model.parameters())}


@pytest.mark.parametrize(("name", "twice"), [("baseline", None), ("tuned", "embedding.weight")])
def test_each_weight_crosses_once_and_a_tied_table_twice(name: str, twice: str | None) -> None:
    work = build(name, "accelerate")
    work.step()
    again = work.model.get_parameter(twice).nbytes if twice else 0
    assert work.traffic is not None
    assert work.traffic.to_device_bytes == work.host_bytes()["weights"] + again


def test_a_prompt_in_chunks_does_not_copy_weights_again() -> None:
    """Each chunk would copy all of them: half the speed, or an eighth."""
    pytest.importorskip("accelerate")
    whole = case("muse", "accelerate", logits="last")
    chunked = dataclasses.replace(whole, config=dataclasses.replace(whole.config, prefill_chunk=8))
    crossed = []
    for asked in (whole, chunked):
        work = build_workload(asked, CPU)
        work.step()
        crossed.append(work.traffic.to_device_bytes)
    assert crossed[0] == crossed[1]


class Names(Observer):
    """Keeps the names that tensors with values are given."""

    def __init__(self) -> None:
        super().__init__()
        self.labels: list[tuple[int, Label]] = []

    def label(self, tensor: torch.Tensor, label: Label) -> None:
        if not tensor.is_meta:
            self.labels.append((tensor.nbytes, label))


@pytest.mark.parametrize("name", ["baseline", "muse", "encoder"])
def test_copies_of_weights_are_named_as_what_they_are(name: str) -> None:
    """In the ledger they would be temporary activations."""
    names, work = Names(), build(name, "accelerate")
    with names, names.watching(work):
        names.begin_step()
        work.step()
    found = {label.module for _, label in names.labels if label.category == "parameters"}
    assert found == {parameter.rpartition(".")[0] for parameter, _ in work.model.named_parameters()}
    assert sum(size for size, label in names.labels if label.category == "parameters") == work.traffic.to_device_bytes


def test_host_memory_that_was_not_given_is_not_taken() -> None:
    with pytest.raises(HostMemoryShort, match="host memory is short"):
        build("baseline", "accelerate", host_memory_bytes=1 << 12)


@pytest.mark.parametrize("mode", ["train", "forward-backward"])
def test_it_does_not_train(mode: str) -> None:
    with pytest.raises(UsageError, match=f"not for {mode}: choose --mode inference or decode"):
        case("baseline", "accelerate", mode)


@pytest.mark.parametrize("change", [{"int8_inference": True}, {"weight_format": "int8"}, {"gate_l1": 0.1}], ids=str)
def test_what_its_hooks_do_not_bring_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="weights 'accelerate' needs"):
        dataclasses.replace(case("standard", "accelerate").config, **change)


def test_it_is_not_predicted() -> None:
    with pytest.raises(UsageError, match="measured only"):
        trace_case(case("baseline", "accelerate"), find_gpu("h200"))


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(UsageError, match=r"pip install 'muse-bench\[peers\]'"):
        build_workload(case("baseline", "accelerate"), CPU)
